//! What fuzzing does with one input: reads it as a file or a message of ours, and checks
//! that nothing panics, that memory stays within a stated bound, and that what was read
//! comes back when it is written.
//!
//! `tests/fuzz` runs these under libFuzzer, which needs a nightly toolchain; this crate's
//! tests run the seeds through them on any.
//!
//! | Module | Owns |
//! |---|---|
//! | [`memory`] | how much memory something takes |
//! | [`release`] | manifest, trust root, downgrade order, block index |
//! | [`boot`] | the boot state's two copies |
//! | [`delta`] | patches, read and applied |
//! | [`wire`] | what comes from the network |

pub mod boot;
pub mod delta;
pub mod memory;
pub mod release;
pub mod wire;

/// Takes an input, and says whether it was one that is of use: a seed should be.
pub type Target = fn(&[u8]) -> bool;

/// Every target, under the name that its seeds' folder and its program have.
pub const TARGETS: [(&str, Target); 8] = [
    ("apply", delta::apply),
    ("boot_state", boot::boot_state),
    ("index", release::index),
    ("manifest", release::manifest),
    ("order", release::order),
    ("patch", delta::patch),
    ("trust", release::trust),
    ("wire", wire::wire),
];

/// Takes a list off the front: its length in a byte, and as many bytes as there are.
fn list<'a>(input: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, rest)) = input.split_first() else {
        return &[];
    };
    let (list, rest) = rest.split_at(rest.len().min((*length).into()));
    *input = rest;
    list
}
