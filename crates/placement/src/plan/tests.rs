use cairn_fleet::{Seconds, Selector};
use proptest::prelude::*;

use super::*;
use crate::node::Line;
use crate::rule::LineNeed;

const NOW: i64 = 1_800_000_000;

fn node(id: &str, group: &str) -> Node {
    Node {
        id: id.into(),
        group: group.into(),
        has: Some(Resources {
            memory: 1000,
            cpus: 4000,
        }),
        ..Node::default()
    }
}

fn rule(copies: Option<u32>) -> Rule {
    Rule {
        on: Selector::All,
        copies,
        spread: Some(Spread::Group).filter(|_| copies.is_some()),
        line: LineNeed::default(),
        move_after: Seconds(900),
    }
}

fn order(workload: &str, copies: Option<u32>, memory: u64) -> Order {
    Order {
        workload: workload.into(),
        rule: rule(copies),
        takes: Resources { memory, cpus: 0 },
        ports: BTreeSet::new(),
    }
}

/// Carries a plan out.
fn carry(placed: &mut Vec<Placed>, plan: &Plan) {
    placed.retain(|old| {
        let gone = |(workload, node, _): &(String, String, Reason)| {
            *workload == old.workload && *node == old.node
        };
        !plan.remove.iter().any(gone)
    });
    placed.extend(plan.place.iter().map(|(workload, node)| Placed {
        workload: workload.clone(),
        node: node.clone(),
        failed: None,
    }));
}

fn where_is(placed: &[Placed], workload: &str) -> Vec<String> {
    let mut nodes: Vec<String> = placed
        .iter()
        .filter(|placed| placed.workload == workload)
        .map(|placed| placed.node.clone())
        .collect();
    nodes.sort();
    nodes
}

#[test]
fn copies_are_spread_and_move_from_a_node_that_is_gone_or_drained() {
    let mut nodes = vec![
        node("a1", "a"),
        node("a2", "a"),
        node("b1", "b"),
        node("b2", "b"),
    ];
    let (orders, none) = ([order("web", Some(2), 600)], BTreeSet::new());
    let mut placed = Vec::new();
    carry(&mut placed, &plan(NOW, &nodes, &orders, &[], &none));
    let first = where_is(&placed, "web");
    assert_eq!(first.len(), 2);
    assert!(first[0].starts_with('a') && first[1].starts_with('b'));

    // Away for a moment: nothing happens. For long: the other of its group takes over.
    let at = nodes.iter().position(|node| node.id == first[0]).unwrap();
    nodes[at].gone = Some(NOW - 899);
    assert_eq!(plan(NOW, &nodes, &orders, &placed, &none), Plan::default());
    nodes[at].gone = Some(NOW - 900);
    let moved = plan(NOW, &nodes, &orders, &placed, &none);
    assert_eq!(
        moved.remove,
        [("web".into(), first[0].clone(), Reason::Gone)]
    );
    carry(&mut placed, &moved);
    let second = where_is(&placed, "web");
    assert!(second[0].starts_with('a') && second[0] != first[0]);

    // Drained: it goes at once, to wherever there is room.
    for node in &mut nodes {
        node.drained = node.group == "b";
    }
    let drained = plan(NOW, &nodes, &orders, &placed, &none);
    assert_eq!(drained.remove[0].2, Reason::Drained);
    assert_eq!(drained.place, []);
    let because = [(Obstacle::Drained, 2), (Obstacle::Gone, 1)].into();
    assert_eq!(drained.missing[0].because, because);
}

#[test]
fn the_last_one_stays_though_its_node_is_gone() {
    let mut nodes = vec![node("a", "g")];
    let (orders, none) = ([order("web", Some(1), 10)], BTreeSet::new());
    let mut placed = Vec::new();
    carry(&mut placed, &plan(NOW, &nodes, &orders, &[], &none));
    nodes[0].gone = Some(NOW - 100_000);
    let waits = plan(NOW, &nodes, &orders, &placed, &none);
    assert_eq!((waits.remove.len(), waits.place.len()), (0, 0));
    assert_eq!(waits.missing[0].copies, 1);
    nodes.push(node("b", "g"));
    let moves = plan(NOW, &nodes, &orders, &placed, &none);
    assert_eq!(moves.place, [("web".to_owned(), "b".to_owned())]);
    assert_eq!(moves.remove, [("web".into(), "a".into(), Reason::Gone)]);
}

#[test]
fn where_it_failed_it_is_not_placed_again() {
    let nodes = [node("a", "g"), node("b", "g")];
    let orders = [order("web", Some(1), 10)];
    let mut placed = vec![Placed {
        workload: "web".into(),
        node: "a".into(),
        failed: Some(NOW - 900),
    }];
    let moves = plan(NOW, &nodes, &orders, &placed, &BTreeSet::new());
    assert_eq!(moves.remove, [("web".into(), "a".into(), Reason::Failed)]);
    carry(&mut placed, &moves);
    placed[0].failed = Some(NOW - 900);
    let lately = [("web".to_owned(), "a".to_owned())].into();
    let stays = plan(NOW, &nodes, &orders, &placed, &lately);
    assert_eq!((stays.place.len(), stays.remove.len()), (0, 0));
    assert_eq!(stays.missing[0].because, [(Obstacle::Failed, 1)].into());
}

#[test]
fn a_node_without_room_a_port_or_a_good_line_is_not_taken() {
    let mut small = node("small", "g");
    small.has = Some(Resources {
        memory: 10,
        cpus: 4000,
    });
    let mut silent = node("silent", "g");
    silent.has = None;
    let nodes = [small, silent, node("good", "g")];
    let mut web = order("web", Some(3), 600);
    web.ports.insert(Port {
        udp: false,
        number: 80,
    });
    let mut other = order("web2", Some(1), 1);
    other.ports.clone_from(&web.ports);
    let none = BTreeSet::new();
    let found = plan(NOW, &nodes, &[web.clone(), other], &[], &none);
    assert_eq!(found.place[0], ("web".into(), "good".into()));
    let because: BTreeMap<_, _> = [(Obstacle::Room, 1), (Obstacle::Unknown, 1)].into();
    assert_eq!(
        (found.missing[0].copies, &found.missing[0].because),
        (2, &because)
    );
    assert_eq!(found.place[1], ("web2".into(), "small".into()));

    web.rule.line.latency_ms = Some(20.0);
    let nowhere = plan(NOW, &nodes, &[web.clone()], &[], &none);
    assert_eq!(nowhere.missing[0].because, [(Obstacle::Line, 3)].into());
    let mut near = node("near", "g");
    near.lines = vec![
        Line::default(),
        Line {
            latency_ms: Some(5.0),
            ..Line::default()
        },
    ];
    let found = plan(NOW, &[near], &[web], &[], &none);
    assert_eq!(found.place, [("web".into(), "near".into())]);
}

#[test]
fn one_for_each_node_waits_for_those_that_are_away() {
    let mut nodes = vec![node("a", "g"), node("b", "g"), node("c", "g")];
    nodes[1].gone = Some(0);
    nodes[2].drained = true;
    let (orders, none) = ([order("web", None, 10)], BTreeSet::new());
    let mut placed = Vec::new();
    carry(&mut placed, &plan(NOW, &nodes, &orders, &[], &none));
    assert_eq!(where_is(&placed, "web"), ["a", "b"]);
    nodes[0].drained = true;
    let drained = plan(NOW, &nodes, &orders, &placed, &none);
    assert_eq!(
        drained.remove,
        [("web".into(), "a".into(), Reason::Drained)]
    );
    assert_eq!(drained.missing, []);
}

fn worlds() -> impl Strategy<Value = (Vec<Node>, Vec<Order>, Vec<Placed>)> {
    let node = (
        0..4_u8,
        0..2000_u64,
        any::<bool>(),
        prop::option::of(0..2000_i64),
        any::<bool>(),
    );
    let nodes = prop::collection::vec(node, 0..12).prop_map(|nodes| {
        let made = nodes.into_iter().enumerate();
        made.map(|(at, (group, memory, drained, gone, knows))| Node {
            has: knows.then_some(Resources { memory, cpus: 4000 }),
            drained: drained && at % 3 == 0,
            gone: gone.map(|seconds| NOW - seconds),
            ..node_of(at, group)
        })
        .collect::<Vec<_>>()
    });
    let order = (
        prop::option::of(1..8_u32),
        0..800_u64,
        0..3_u16,
        prop::option::of(0..4_u8),
    );
    let orders = prop::collection::vec(order, 0..5).prop_map(|orders| {
        let made = orders.into_iter().enumerate();
        made.map(|(at, (copies, memory, port, group))| {
            let mut order = order_of(at, copies, memory);
            order.ports = (port > 0)
                .then_some(Port {
                    udp: false,
                    number: port,
                })
                .into_iter()
                .collect();
            if let Some(group) = group {
                order.rule.on = Selector::Group(format!("g{group}"));
            }
            order
        })
        .collect::<Vec<_>>()
    });
    let placed = prop::collection::btree_map(
        (0..6_usize, 0..14_usize),
        prop::option::of(0..2000_i64),
        0..20,
    );
    let placed = placed.prop_map(|placed| {
        let made = placed.into_iter();
        made.map(|((workload, node), failed)| Placed {
            workload: format!("w{workload}"),
            node: format!("n{node}"),
            failed: failed.map(|seconds| NOW - seconds),
        })
        .collect::<Vec<_>>()
    });
    (nodes, orders, placed)
}

fn node_of(at: usize, group: u8) -> Node {
    node(&format!("n{at}"), &format!("g{group}"))
}

fn order_of(at: usize, copies: Option<u32>, memory: u64) -> Order {
    order(&format!("w{at}"), copies, memory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_plan_keeps_its_word((nodes, orders, before) in worlds()) {
        let none = BTreeSet::new();
        let first = plan(NOW, &nodes, &orders, &before, &none);
        let mut after = before.clone();
        carry(&mut after, &first);
        // What left has made room; it comes to rest.
        let mut end = after.clone();
        for round in 0.. {
            let next = plan(NOW, &nodes, &orders, &end, &none);
            if next.place.is_empty() && next.remove.is_empty() {
                break;
            }
            prop_assert!(round < 5, "{next:?}");
            carry(&mut end, &next);
        }
        let find = |id: &str| nodes.iter().find(|node| node.id == id);
        for old in &after {
            let order = orders.iter().find(|order| order.workload == old.workload);
            let order = order.expect("only what is declared is left");
            let node = find(&old.node).expect("only nodes that there are");
            prop_assert!(node.is_meant(&order.rule.on) && !node.drained);
        }
        for (workload, id) in &first.place {
            let node = find(id).unwrap();
            let here = after.iter().filter(|placed| placed.node == *id);
            let here: Vec<&Order> = here
                .map(|placed| orders.iter().find(|order| order.workload == placed.workload).unwrap())
                .collect();
            let order = orders.iter().find(|order| order.workload == *workload).unwrap();
            if order.takes.memory > 0 {
                let taken: u64 = here.iter().map(|order| order.takes.memory).sum();
                prop_assert!(taken <= node.has.unwrap().memory);
            }
            let ports = here.iter().filter(|other| !other.ports.is_disjoint(&order.ports)).count();
            prop_assert!(ports <= 1, "a port is given out once");
        }
        for order in &orders {
            let is_here = |placed: &&Placed| placed.workload == order.workload;
            let count = after.iter().filter(is_here).count();
            let missing = first.missing.iter().find(|missing| missing.workload == order.workload);
            let missing = missing.map_or(0, |missing| missing.copies);
            if let Some(copies) = order.rule.copies {
                prop_assert!(count <= copies as usize);
                prop_assert!(count + missing >= copies as usize);
            }
        }
        // Who is well stays, unless there are too many.
        for (workload, id, reason) in &first.remove {
            match reason {
                Reason::Removed => prop_assert!(orders.iter().all(|order| order.workload != *workload)),
                Reason::Drained => prop_assert!(find(id).unwrap().drained),
                Reason::Gone => prop_assert!(find(id).unwrap().gone.unwrap() <= NOW - 900),
                Reason::NotMeant | Reason::Failed | Reason::Surplus => {}
            }
        }
        let mut turned = (nodes.clone(), orders.clone(), before.clone());
        turned.0.reverse();
        turned.1.reverse();
        turned.2.reverse();
        prop_assert_eq!(plan(NOW, &turned.0, &turned.1, &turned.2, &none), first);
    }

    #[test]
    fn copies_are_spread_evenly(sizes in prop::collection::vec(5..9_usize, 1..5), copies in 1..20_u32) {
        let nodes: Vec<Node> = sizes.iter().enumerate()
            .flat_map(|(group, size)| (0..*size).map(move |at| node(&format!("n{group}-{at}"), &format!("g{group}"))))
            .collect();
        let copies = copies.min(5 * u32::try_from(sizes.len()).unwrap());
        let made = plan(NOW, &nodes, &[order("w", Some(copies), 1)], &[], &BTreeSet::new());
        let mut counts = vec![0; sizes.len()];
        for (_, id) in &made.place {
            let group: usize = id[1..].split('-').next().unwrap().parse().unwrap();
            counts[group] += 1;
        }
        prop_assert_eq!(counts.iter().sum::<u32>(), copies);
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
    }
}
