//! What reads back damaged.

use super::*;

#[test]
fn what_is_damaged_is_fetched_once_more_and_then_given_up() {
    let mut node = Node::new();
    node.ordered(order("o1", "2.0", 2));
    node.checked(facts("2.0", 2));
    for event in [
        Event::Prepared,
        Event::Fetched,
        Event::Damaged("root".into()),
    ] {
        node.take(event);
    }
    assert_eq!(
        (node.phase(), node.told()),
        ("Fetching", vec![UpdateState::Fetching])
    );
    // Even if the agent begins again in between.
    node.boots("boot-1", Slot::Good, "1.0", 1);
    assert!(
        node.actions
            .iter()
            .any(|action| matches!(action, Action::Fetch { .. }))
    );
    node.take(Event::Fetched);
    node.take(Event::Damaged("root".into()));
    assert_eq!(node.phase(), "Failing");
    node.take(Event::Settled);
    assert_eq!(node.last(), ("o1", Some(FailureKind::Verify)));
    assert_eq!(
        node.failure().reason,
        "damaged, fetched once more, and damaged again: root"
    );
}

#[test]
fn a_state_from_before_refetching_is_read() {
    let mut node = Node::new();
    node.ordered(order("o1", "2.0", 2));
    let mut json = serde_json::to_value(&node.state).unwrap();
    json["update"]
        .as_object_mut()
        .unwrap()
        .remove("refetched")
        .unwrap();
    assert_eq!(serde_json::from_value::<State>(json).unwrap(), node.state);
}
