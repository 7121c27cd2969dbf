//! Writes the seeds that our own code makes into `tests/fuzz/seeds`; those that fuzzing
//! found lie beside them and stay.

use std::path::Path;

use cairn_boot_state::{BootState, Tries};
use cairn_delta::make::make;
use cairn_delta::patch::{HEAD, Patch, TABLE};
use cairn_fuzz_targets::delta::{images, packed};
use cairn_fuzz_targets::release::{KEY, TRUST};
use cairn_release::{Digest, DowngradeOrder, Manifest, Timestamp, Version, manifest, order};

fn write(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    let folder = folder.join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn main() {
    release();
    boot_state();
    delta();
    wire();
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn example() -> Manifest {
    manifest::example::manifest(&version("1.4.0"), 7)
}

fn release() {
    let mut envelope = example().to_envelope();
    envelope.sign(&KEY);
    write("manifest", "envelope", envelope.to_json());
    write("manifest", "payload", example().to_payload());

    let mut next = TRUST.clone();
    next.version = 2;
    next.expires = Timestamp::from_unix(1_900_000_000).ok();
    next.boot_key = Some("00112233445566778899AABBCCDDEEFF00112233".into());
    next.revoked.push(cairn_release::KeyId(Digest::of(b"gone")));
    let mut envelope = next.to_envelope();
    envelope.sign(&KEY);
    write("trust", "envelope", envelope.to_json());
    write("trust", "payload", envelope.payload);

    let order = DowngradeOrder {
        format: order::FORMAT,
        release: Digest::of(&example().to_payload()),
        devices: vec!["node-1".into()],
        not_after: Timestamp::from_unix(1_900_000_000).unwrap(),
    };
    let mut envelope = order.to_envelope();
    envelope.sign(&KEY);
    write("order", "envelope", envelope.to_json());
    write("order", "payload", envelope.payload);

    write("index", "lists", b"\x05abcde\x06bcdxxe");
    write("index", "file", Digest::of(b"block").0);
}

fn boot_state() {
    let state = BootState {
        generation: 7,
        good: Some(version("1.4.0")),
        good_tries: Tries::Unlimited,
        trial: Some(version("1.5.0")),
        trial_tries: 2,
        failed: vec![version("1.3.9"), version("1.3.8")],
    };
    let lines = |state: &BootState| {
        let mut block = state.to_block().to_vec();
        block.truncate(block.len() - block.iter().rev().take_while(|b| **b == b'#').count());
        block
    };
    write("boot_state", "lines", lines(&state));
    write("boot_state", "empty", lines(&BootState::default()));
    let mut both = state.to_block().to_vec();
    let newer = BootState {
        generation: 8,
        trial: None,
        ..state
    };
    both.extend(newer.to_block());
    write("boot_state", "both", both);
}

fn delta() {
    let lists = [&b"abcdef"[..], b"bcb", b"eaf"];
    let (old, new) = images(lists);
    let bytes = make(&old, &new, new.len(), |_, _| {}).unwrap();
    let end = Patch::table_end(&bytes).unwrap();
    let table = zstd::bulk::decompress(&bytes[HEAD..end], TABLE).unwrap();
    assert!(
        !Patch::parse(&bytes).unwrap().segments[0]
            .reference
            .is_empty()
    );
    write("patch", "file", &bytes[..end]);
    write("patch", "table", &table);
    write("patch", "many_segments", many_segments());
    write("patch", "many_runs", many_runs());
    write("patch", "many_copies", many_copies());

    let mut input = Vec::new();
    for list in lists.into_iter().chain([&table[..]]) {
        input.push(list.len() as u8);
        input.extend(list);
    }
    input.extend(&bytes[end..]);
    write("apply", "patch", input);
}

/// A small file whose table unpacks to as many segments as it can hold, of a block each.
fn many_segments() -> Vec<u8> {
    let mut table = vec![0, 0x80, 0x80, 0x08];
    table.extend([0, 1, 0, 1, 0].repeat(0x20000));
    packed(&table, [0, u32::MAX], [Digest([0; 32]); 2])
}

/// The same with as many runs as it can hold.
fn many_runs() -> Vec<u8> {
    // 6144 runs of a block to refer to, one to make, no data.
    let mut segment = vec![0x80, 0x30];
    segment.extend([0, 1].repeat(6144));
    segment.extend([1, 0, 1, 0]);
    let mut table = vec![0, 84];
    table.extend(segment.repeat(84));
    packed(&table, [u32::MAX; 2], [Digest([0; 32]); 2])
}

/// The same with as many copies as it can hold, of a block each.
fn many_copies() -> Vec<u8> {
    let mut table = vec![0x80, 0x80, 0x14];
    table.extend([0, 1, 0].repeat(0x50000));
    table.push(0);
    packed(&table, [u32::MAX; 2], [Digest([0; 32]); 2])
}

fn wire() {
    let digest = Digest::of(&example().to_payload());
    let release = format!(
        r#"{{"id":"r-1","version":"1.4.0","sequence":7,"digest":"{digest}","url":"/releases/stable/1.4.0/","when":"now","forgive":true}}"#
    );
    let firmware = format!(
        r#"{{"fw_title":"os","fw_version":"1.4.0","fw_tag":"7","fw_url":"https://cp.example/stable/1.4.0","fw_checksum":"{digest}","fw_checksum_algorithm":"SHA256"}}"#
    );
    let report = format!(
        r#"{{"order":"r-1","version":"1.4.0","digest":"{digest}","state":"failed","running":"1.3.0","failure":{{"kind":"fell-back","reason":"it hung","retry":false}}}}"#
    );
    let messages = [
        (
            "desired",
            format!(r#"{{"revision":3,"release":{release}}}"#),
        ),
        ("firmware", firmware.clone()),
        (
            "response",
            format!(r#"{{"client":{{}},"shared":{firmware}}}"#),
        ),
        ("report", report),
        ("deleted", r#"{"deleted":["fw_url"]}"#.into()),
        (
            "call",
            r#"{"method":"logs","params":{"unit":"a.service","lines":5}}"#.into(),
        ),
        ("reply", r#"{"ok":false,"error":"busy"}"#.into()),
        (
            "records",
            r#"[{"ts":1,"values":{"a":21.5,"b":[true,null]},"cairn":{"log":"00ff","seq":7}}]"#
                .into(),
        ),
        (
            "identity",
            r#"{"device":"node-1","certificate":"","ca":"","mqtt":"h:8883","time":1}"#.into(),
        ),
        ("topic", "v2/fw/request/1/chunk/2".into()),
        ("filter", "v1/devices/me/rpc/request/+".into()),
    ];
    for (name, message) in messages {
        write("wire", name, message);
    }
}
