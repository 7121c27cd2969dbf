//! Files that the disk damages, which their length doesn't show.

use super::*;
use crate::update::effects::Part;

/// A node whose disk loses a bit of a file the next `times` that it is read back.
fn node(part: Part, times: u32) -> Node {
    let node = Node::new();
    node.world().rots.insert(part, times);
    node
}

/// How often a file was fetched: each time begins with its verity tree.
fn fetched(world: &World, part: Part) -> usize {
    let (manifest, _) = super::super::fake::release("2.0", 2, &release_key());
    let tree = manifest.root.verity.hash_offset;
    let asked = world.asked.iter();
    asked
        .filter(|(url, from)| url.ends_with(part.name()) && *from == tree)
        .count()
}

#[test]
fn a_damaged_file_is_fetched_once_more_and_no_other() {
    for (part, other) in [(Part::Kernel, Part::Root), (Part::Root, Part::Kernel)] {
        let node = node(part, 1);
        node.obeys(&order("o1", "2.0", 2));
        assert_eq!(node.failure("o1"), None, "{part:?}");
        let world = node.world();
        assert_eq!((fetched(&world, part), fetched(&world, other)), (2, 1));
        let told = |report: &&cairn_wire::UpdateReport| {
            let note = report.note.as_deref().unwrap_or_default();
            note.starts_with(&format!("damaged, fetched once more: {}: ", part.name()))
        };
        assert_eq!(world.reports.iter().filter(told).count(), 1);
    }
}

#[test]
fn a_file_that_is_damaged_again_ends_the_update_and_is_named() {
    for part in [Part::Kernel, Part::Root] {
        let node = node(part, 2);
        let failure = node
            .obeys(&order("o1", "2.0", 2))
            .last
            .unwrap()
            .failure
            .unwrap();
        assert_eq!(node.failure("o1"), Some(FailureKind::Verify));
        {
            let world = node.world();
            let reason = &failure.reason;
            let expected = format!(
                "damaged, fetched once more, and damaged again: {}: expected ",
                part.name()
            );
            assert!(reason.starts_with(&expected) && failure.retry, "{reason}");
            assert_eq!(fetched(&world, part), 2);
            // The other file is kept for the next attempt, the damaged one takes no room.
            let left = &world.partial[&version("2.0")];
            assert_eq!((left.len(), left.contains_key(&part)), (2, false));
        }
        // The next order has a second attempt of its own.
        node.world().rots.insert(part, 1);
        node.obeys(&order("o2", "2.0", 2));
        assert_eq!(node.failure("o2"), None);
    }
}

#[test]
fn cut_at_every_side_effect_a_damaged_file_is_fetched_once_more() {
    let count = {
        let node = node(Part::Root, 1);
        node.obeys(&order("o1", "2.0", 2));
        node.world().calls
    };
    for at in 1..=count {
        for fault in [
            Fault::Before(at, End::Killed),
            Fault::After(at, End::PowerCut),
            Fault::Torn(at),
        ] {
            let node = node(Part::Root, 1);
            node.world().fault = Some(fault);
            node.obeys(&order("o1", "2.0", 2));
            let log = node.world().log.clone();
            assert_eq!(node.failure("o1"), None, "{fault:?}: {log:?}");
        }
    }
}

#[test]
fn a_release_that_is_damaged_in_its_place_is_fetched_anew() {
    let node = Node::new();
    let (_, mut files) = super::super::fake::release("2.0", 2, &release_key());
    files.entry(Part::Root).and_modify(|bytes| bytes[0] ^= 1);
    node.world().installed.insert(version("2.0"), files);
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
    assert_eq!(fetched(&node.world(), Part::Root), 1);
}
