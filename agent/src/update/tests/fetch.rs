//! What comes over the network, from which server, and what doesn't have to.

use cairn_release::BLOCK;

use super::super::fake::{order_for, release_with};
use super::*;
use crate::update::effects::Part;

/// Bytes of 2.0's manifest, which is looked at once more before the plan.
fn manifests(world: &World) -> u64 {
    2 * world.store[&url(Part::Manifest)].len() as u64
}

fn url(part: Part) -> String {
    format!("/releases/stable/2.0/{}", part.name())
}

/// A node on which this block of the installed 1.0's root image is damaged.
fn weak(block: usize) -> Node {
    let node = Node::new();
    node.world().weak = Some((Part::Root, block * BLOCK + 9));
    node
}

/// Updates to 2.0, and gives how many blocks of both images came, trees included.
fn blocks(node: &Node) -> u64 {
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None, "{:?}", node.world().log);
    let world = node.world();
    let images = world.traffic - manifests(&world);
    assert_eq!(images % BLOCK as u64, 0);
    images / BLOCK as u64
}

#[test]
fn only_blocks_that_are_nowhere_here_are_fetched() {
    // Of each image its tree and its own two.
    assert_eq!(blocks(&Node::new()), 2 * 3);
}

#[test]
fn an_image_that_an_installed_release_has_costs_nothing() {
    let node = Node::new();
    let (manifest, files) = release_with("2.0", 2, &release_key(), "1.0");
    node.world().offer("2.0", files);
    node.obeys(&order_for("o1", "2.0", 2, &manifest));
    assert_eq!(node.failure("o1"), None);
    let world = node.world();
    let root = 3 * BLOCK as u64;
    assert_eq!(world.traffic, manifests(&world) + root);
}

#[test]
fn an_older_image_that_is_damaged_helps_with_what_is_left_of_it() {
    assert_eq!(blocks(&weak(0)), 2 * 3 + 1);
    assert_eq!(blocks(&weak(2)), 2 * 3 + 1);
    // Its tree: then all of it is read.
    assert_eq!(blocks(&weak(5)), 2 * 3);
}

#[test]
fn killed_anywhere_nothing_comes_twice() {
    let calls = {
        let node = Node::new();
        blocks(&node);
        node.world().calls
    };
    for at in 1..=calls {
        let node = Node::new();
        node.world().fault = Some(Fault::After(at, End::Killed));
        node.obeys(&order("o1", "2.0", 2));
        assert_eq!(node.failure("o1"), None);
        let world = node.world();
        // The manifest is looked at anew in each life, and a piece that came may not have been written.
        let most = 2 * manifests(&world) + (2 * 3 + 1) * BLOCK as u64;
        assert!(world.traffic <= most, "{at}: {}", world.traffic);
    }
}

#[test]
fn a_patch_is_taken_if_there_is_one() {
    let node = Node::new();
    node.world().publish_patches("2.0");
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
    let world = node.world();
    let patches: usize = {
        let patches = world
            .store
            .iter()
            .filter(|(url, _)| url.ends_with(".patch"));
        patches
            .map(|(_, patch)| patch.len() + cairn_delta::patch::HEAD)
            .sum()
    };
    assert_eq!(world.traffic, manifests(&world) + patches as u64);
    assert!(patches < 3 * BLOCK, "{patches}");
    // Nothing of it is left.
    assert_eq!(world.installed[&version("2.0")].len(), 3);
}

#[test]
fn cut_at_every_side_effect_a_patched_release_becomes_good() {
    let patched = |fault| {
        let node = Node::new();
        node.world().publish_patches("2.0");
        node.world().fault = fault;
        node.obeys(&order("o1", "2.0", 2));
        assert_eq!(
            node.failure("o1"),
            None,
            "{fault:?}: {:?}",
            node.world().log
        );
        assert_eq!(node.world().installed[&version("2.0")].len(), 3);
        node.world().calls
    };
    for at in 1..=patched(None) {
        for fault in [
            Fault::Before(at, End::Killed),
            Fault::After(at, End::PowerCut),
            Fault::Torn(at),
        ] {
            patched(Some(fault));
        }
    }
}

#[test]
fn a_patch_that_is_of_no_use_costs_only_time() {
    let broken: [fn(&mut Vec<u8>); 5] = [
        |patch| *patch.last_mut().unwrap() ^= 0xff,
        |patch| patch.truncate(patch.len() - 3),
        |patch| patch.truncate(20),
        // The table, and the other image.
        |patch| patch[cairn_delta::patch::HEAD + 2] ^= 0xff,
        |patch| patch[45] ^= 1,
    ];
    for (number, damage) in broken.into_iter().enumerate() {
        let node = Node::new();
        node.world().publish_patches("2.0");
        let before = {
            let mut world = node.world();
            let patches = world
                .store
                .iter_mut()
                .filter(|(url, _)| url.ends_with(".patch"));
            patches.for_each(|(_, patch)| damage(patch));
            world.traffic
        };
        node.obeys(&order("o1", "2.0", 2));
        assert_eq!(node.failure("o1"), None, "{number}");
        let world = node.world();
        assert!(world.traffic - before >= 2 * 3 * BLOCK as u64, "{number}");
        assert_eq!(world.installed[&version("2.0")].len(), 3, "{number}");
    }
    // A patch from a damaged image gives another one.
    let node = weak(0);
    node.world().publish_patches("2.0");
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
}

#[test]
fn a_server_that_knows_no_ranges_gives_all_of_it() {
    let node = Node::new();
    node.world().no_ranges = true;
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None);
    let world = node.world();
    // The first piece of the answer that was no range, for the tree, is thrown away unread.
    assert_eq!(world.traffic, manifests(&world) + 2 * 6 * BLOCK as u64);
}

#[test]
fn a_copy_of_another_release_is_refused_and_takes_no_more_room_than_this_one() {
    for (part, stale) in [(Part::Root, "1.0"), (Part::Kernel, "1.0")] {
        let node = Node::new();
        let bytes = super::super::fake::release(stale, 1, &release_key()).1[&part].clone();
        node.world().store.insert(url(part), bytes);
        let ended = node.obeys(&order("o1", "2.0", 2));
        let failure = ended.last.unwrap().failure.unwrap();
        assert_eq!(failure.kind, FailureKind::Fetch);
        let reason = &failure.reason;
        assert!(
            reason.contains(&url(part)) && reason.contains("the server has another file"),
            "{reason}"
        );
        let world = node.world();
        assert!(world.traffic < manifests(&world) + 20 * BLOCK as u64);
        let left: usize = world.partial[&version("2.0")].values().map(Vec::len).sum();
        assert!(left <= 2 * 6 * BLOCK + 3000, "{left}");
    }
}

#[test]
fn a_stale_block_behind_a_right_tree_is_refused_too() {
    let node = Node::new();
    {
        let mut world = node.world();
        // One of the root image's own two blocks.
        let file = world.store.get_mut(&url(Part::Root)).unwrap();
        file[4 * BLOCK + 77] ^= 1;
    }
    let ended = node.obeys(&order("o1", "2.0", 2));
    let failure = ended.last.unwrap().failure.unwrap();
    assert_eq!(failure.kind, FailureKind::Fetch);
    assert!(
        failure.reason.contains("block 4 is not the one"),
        "{}",
        failure.reason
    );
    assert!(failure.retry);
}
