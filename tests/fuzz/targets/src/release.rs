//! What a release's files and their signers say.

use std::sync::LazyLock;

use cairn_delta::Local;
use cairn_release::index::BlockIndex;
use cairn_release::trust::Role;
use cairn_release::{
    BLOCK, DowngradeOrder, Envelope, Manifest, SecretKey, Timestamp, TrustRoot, manifest, order,
    trust,
};

use crate::list;
use crate::memory::within;

/// The key that has signed every payload that the targets make an envelope for.
pub static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed(&[1; 32]));

/// A trust root that trusts [`KEY`] in both roles.
pub static TRUST: LazyLock<TrustRoot> = LazyLock::new(|| {
    let role = Role {
        threshold: 1,
        keys: vec![KEY.public()],
    };
    TrustRoot {
        format: trust::FORMAT,
        version: 1,
        expires: None,
        root: role.clone(),
        release: role,
        boot_key: None,
        revoked: Vec::new(),
    }
});

/// JSON into structs. The worst is a list of empty strings: 24 bytes for 3, and while the
/// list grows, that thrice.
fn json(length: usize) -> usize {
    32 * length + 4096
}

/// The payload if the input is an envelope; the input itself if it isn't.
fn payload(input: &[u8], kind: &'static str) -> Vec<u8> {
    match within(json(input.len()), || Envelope::parse(input, kind)) {
        Ok(envelope) => {
            let again = Envelope::parse(&envelope.to_json(), kind);
            assert_eq!(again.ok().as_ref(), Some(&envelope));
            envelope.payload
        }
        Err(_) => input.to_vec(),
    }
}

fn signed(kind: &str, payload: Vec<u8>) -> Envelope {
    let mut envelope = Envelope::new(kind, payload);
    envelope.sign(&KEY);
    envelope
}

/// A manifest, in its envelope or without.
pub fn manifest(input: &[u8]) -> bool {
    let payload = payload(input, manifest::PAYLOAD_TYPE);
    let bound = json(payload.len());
    let Ok(manifest) = within(bound, || Manifest::from_payload(&payload)) else {
        return false;
    };
    let again = Manifest::from_payload(&manifest.to_payload());
    assert_eq!(again.ok(), Some(manifest));
    true
}

/// A trust root: as a file, and as the payload of an envelope that [`KEY`] has signed.
pub fn trust(input: &[u8]) -> bool {
    let bound = json(input.len());
    let _ = within(bound, || TrustRoot::parse(input).map(drop));
    let envelope = signed(trust::PAYLOAD_TYPE, payload(input, trust::PAYLOAD_TYPE));
    let next = within(bound, || TRUST.accept(&envelope));
    let Ok(trust) = TrustRoot::unsigned(&envelope) else {
        assert!(next.is_err());
        return false;
    };
    if let Ok(next) = next {
        assert_eq!((next.version, &next), (2, &trust));
    }
    let again = TrustRoot::unsigned(&trust.to_envelope());
    assert_eq!(again.ok(), Some(trust));
    true
}

/// A downgrade order: as a file, and as the payload of an envelope that [`KEY`] has signed.
pub fn order(input: &[u8]) -> bool {
    let payload = payload(input, order::PAYLOAD_TYPE);
    let envelope = signed(order::PAYLOAD_TYPE, payload);
    let bound = json(envelope.payload.len());
    let read = within(bound, || DowngradeOrder::from_envelope(&envelope, &TRUST));
    let Ok(order) = read else {
        return false;
    };
    let again = DowngradeOrder::unsigned(&order.to_envelope());
    assert_eq!(again.ok().as_ref(), Some(&order));
    let end = order.not_after;
    let device = order.devices.first().map_or("node", String::as_str);
    assert!(order.allows(&order.release, device, end).is_ok());
    if let Ok(later) = Timestamp::from_unix(end.unix() + 1) {
        assert!(order.allows(&order.release, device, later).is_err());
    }
    true
}

/// A block index as it lies in a file, and what one says of another: of the input's two
/// lists each byte stands for a block.
pub fn index(mut input: &[u8]) -> bool {
    let bytes = input.to_vec();
    // It is kept as it came.
    let parsed = within(0, || BlockIndex::parse(bytes));
    assert_eq!(parsed.is_ok(), input.len().is_multiple_of(32));
    if let Ok(index) = &parsed {
        assert_eq!(index.as_bytes(), input);
        assert_eq!(index.digests().len(), index.blocks());
    }

    let (old, new) = (named(list(&mut input)), named(list(&mut input)));
    let blocks = old.blocks() + new.blocks();
    // Of each block an entry of 41 bytes in a table at most half full, old and new table
    // for a moment; and a copy of 32 bytes in a list that doubles.
    let local = within(256 * blocks + 4096, || Local::of(&new, &[&old]));
    let copied = local.copies.iter().map(|copy| copy.to);
    let mut runs: Vec<_> = local.missing.iter().copied().chain(copied).collect();
    runs.sort_unstable();
    let next = runs.iter().fold(0, |next, run| {
        assert_eq!(run.at, next);
        run.end()
    });
    assert_eq!(next as usize, new.blocks());
    let missing: u32 = local.missing.iter().map(|run| run.count).sum();
    assert_eq!(
        new.bytes_missing_from(&[&old]),
        u64::from(missing) * BLOCK as u64
    );
    parsed.is_ok_and(|index| index.blocks() > 0) || blocks > 0
}

/// An index of made-up blocks, of which each byte names one.
fn named(blocks: &[u8]) -> BlockIndex {
    let digests = blocks.iter().flat_map(|block| [*block; 32]).collect();
    BlockIndex::parse(digests).unwrap_or_default()
}
