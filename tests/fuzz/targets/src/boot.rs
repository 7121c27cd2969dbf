//! The boot state's two copies, as they lie on a partition that anybody may have written.

use cairn_boot_state::block::{BLOCK_SIZE, MAX_FAILED};
use cairn_boot_state::{BootState, Damage, Event, Tries, candidates, pick, step};
use cairn_release::Version;

use crate::memory::within;

/// Both copies' versions and the beginnings of what is wrong: a block's bytes at most, three
/// for one where they aren't UTF-8, in strings that double; twice, for the two copies.
const BOUND: usize = 2 * 3 * 3 * BLOCK_SIZE;

/// The two halves of the input as the two copies; each ends with as many `#` as a block
/// needs, and then once more with the right sum.
pub fn boot_state(input: &[u8]) -> bool {
    let (a, b) = input.split_at(input.len().min(BLOCK_SIZE));
    let _ = within(BOUND, || pick(a, b));
    let (a, b) = (whole(a), whole(b));
    let picked = within(BOUND, || pick(&a, &b));
    assert_eq!(picked.from.is_none(), picked.damaged.len() == 2);
    let [first, last] = picked.write_order();
    assert!(first != last && picked.from.is_none_or(|from| from == last));
    comes_back(&picked.state);
    if picked.from.is_none() {
        return false;
    }

    let named = [&picked.state.trial, &picked.state.good];
    let installed: Vec<Version> = named.into_iter().flatten().cloned().collect();
    for candidate in candidates(&picked.state, &installed) {
        assert!(installed.contains(&candidate.version));
    }
    for version in installed {
        let events = [
            Event::BootFailed {
                version: version.clone(),
            },
            Event::GoodChosen {
                version: version.clone(),
                tries: Tries::Left(1),
            },
            Event::TrialChosen { version, tries: 2 },
            Event::TrialWithdrawn,
        ];
        for event in events {
            if let Ok(next) = step(&picked.state, event) {
                comes_back(&next);
            }
        }
    }
    true
}

/// A state that was read, or follows from one, can be written as it is.
fn comes_back(state: &BootState) {
    assert!(state.failed.len() <= MAX_FAILED);
    assert_eq!(BootState::parse(&state.to_block()).as_ref(), Ok(state));
}

/// A whole block, its sum set right if nothing else is wrong: no fuzzer guesses a CRC.
fn whole(copy: &[u8]) -> Vec<u8> {
    let mut block = copy.to_vec();
    block.resize(BLOCK_SIZE, b'#');
    if let Err(Damage::Checksum { expected, .. }) = BootState::parse(&block) {
        let end = block.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        block[end - 8..end].copy_from_slice(format!("{expected:08x}").as_bytes());
        assert!(BootState::parse(&block).is_ok());
    }
    block
}
