//! What neighbours save, and what they can't break.

use cairn_release::BLOCK;
use cairn_wire::neighbour::{Blocks, Role};

use super::super::fake::{FakeNeighbour, Manner};
use super::*;
use crate::update::effects::Part;

/// Blocks of 2.0's images that no older release has, with their trees.
const OWN: u64 = 2 * 3 * BLOCK as u64;

fn site(manners: &[(&str, Manner)]) -> Node {
    let node = Node::new();
    let neighbours = manners.iter();
    node.world().neighbours = neighbours
        .map(|(id, manner)| FakeNeighbour::new(id, "2.0", 2, *manner))
        .collect();
    node.obeys(&order("o1", "2.0", 2));
    assert_eq!(node.failure("o1"), None, "{:?}", node.world().log);
    node
}

/// Bytes of images that came from the server, and from each neighbour.
fn bytes(node: &Node) -> (u64, Vec<u64>) {
    let world = node.world();
    let manifest = format!("/releases/stable/2.0/{}", Part::Manifest.name());
    let manifests = 2 * world.store[&manifest].len() as u64;
    let near: Vec<u64> = world
        .neighbours
        .iter()
        .map(|neighbour| neighbour.given)
        .collect();
    let far = world.traffic - manifests - near.iter().sum::<u64>();
    (far, near)
}

fn pauses(node: &Node) -> usize {
    let world = node.world();
    world
        .log
        .iter()
        .filter(|line| line.ends_with(" sleep"))
        .count()
}

#[test]
fn what_a_neighbour_has_does_not_come_from_the_server() {
    assert_eq!(bytes(&site(&[("a", Manner::Gives)])), (0, vec![OWN]));
}

#[test]
fn a_neighbour_that_fetches_is_waited_for() {
    let node = site(&[("z", Manner::Fetches { until_ms: 90_000 })]);
    assert_eq!(bytes(&node), (0, vec![OWN]));
}

#[test]
fn when_it_dies_another_goes_on() {
    let before = Node::new().world().uptime_ms;
    let node = site(&[(
        "z",
        Manner::Dies {
            at_ms: before + 20_000,
        },
    )]);
    assert_eq!(bytes(&node), (OWN, vec![0]));
    let node = site(&[
        (
            "y",
            Manner::Dies {
                at_ms: before + 20_000,
            },
        ),
        (
            "z",
            Manner::Fetches {
                until_ms: before + 40_000,
            },
        ),
    ]);
    assert_eq!(bytes(&node), (0, vec![0, OWN]));
}

#[test]
fn a_liar_costs_only_what_it_sent() {
    for manner in [Manner::Lies, Manner::Refuses] {
        let (far, near) = bytes(&site(&[("a", manner)]));
        assert_eq!(far, OWN, "{manner:?}");
        assert!(near[0] <= 2 * BLOCK as u64, "{manner:?}: {near:?}");
    }
    let (far, near) = bytes(&site(&[("a", Manner::Lies), ("b", Manner::Gives)]));
    assert_eq!((far, near[1]), (0, OWN));
}

#[test]
fn one_that_only_says_that_it_fetches_is_waited_for_half_an_hour() {
    let node = site(&[("a", Manner::Pretends)]);
    assert_eq!(bytes(&node), (OWN, vec![0]));
    // Of a second each, for two images.
    assert!((3600..3700).contains(&pauses(&node)), "{}", pauses(&node));
}

#[test]
fn of_two_that_want_the_lesser_id_fetches() {
    // This node is node-1.
    let quick = site(&[("node-2", Manner::Mirrors)]);
    let slow = site(&[("node-0", Manner::Mirrors)]);
    for node in [&quick, &slow] {
        assert_eq!(bytes(node), (OWN, vec![0]));
    }
    assert!(pauses(&quick) < 100, "{}", pauses(&quick));
    // What it says moves on, so it takes the whole wait.
    assert!(pauses(&slow) > 3600, "{}", pauses(&slow));
}

#[test]
fn neighbours_are_told_what_is_there_and_nothing_is_claimed_in_the_end() {
    let node = site(&[]);
    let world = node.world();
    assert_eq!(world.offered.len(), 2);
    for offer in &world.offered {
        let holding = offer.holding("a");
        assert_eq!(holding.role, None::<Role>);
        assert_eq!(holding.blocks, Blocks::all(5));
    }
}
