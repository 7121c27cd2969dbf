//! The seeds go through the targets; `make fuzz` begins with them.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use cairn_fuzz_targets::TARGETS;

#[test]
fn every_seed_passes_and_some_are_taken() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    for (name, target) in TARGETS {
        let mut taken = 0;
        let folder = fs::read_dir(seeds.join(name)).unwrap();
        for path in folder.map(|entry| entry.unwrap().path()) {
            let seed = fs::read(&path).unwrap();
            let done = catch_unwind(|| target(&seed));
            assert!(done.is_ok(), "{} fails", path.display());
            taken += usize::from(done.is_ok_and(|done| done));
        }
        // Or else the format has moved on: `cargo run --example write_seeds` makes new ones.
        assert!(taken > 0, "{name} takes none of its seeds");
    }
}
