//! What to change, so that each workload is where its rule wants it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::node::{Node, Port, Resources};
use crate::rule::{Rule, Spread};

/// The most workloads of one node, as the desired document has it.
pub const MAX_ON_A_NODE: usize = 128;

/// A workload that shall run.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Its name.
    pub workload: String,
    /// Where.
    pub rule: Rule,
    /// What it takes at most; what it doesn't limit isn't counted.
    pub takes: Resources,
    /// The node's ports that it publishes.
    pub ports: BTreeSet<Port>,
}

/// A workload on a node, as it was ordered before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The workload.
    pub workload: String,
    /// The node's id.
    pub node: String,
    /// Since when the node says that it can't run it, in seconds since 1970.
    pub failed: Option<i64>,
}

/// Why a workload leaves a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It isn't declared any more.
    Removed,
    /// The node isn't meant, or is no more.
    NotMeant,
    /// The node is drained.
    Drained,
    /// The node isn't heard of, and another has taken over.
    Gone,
    /// It failed there, and another has taken over.
    Failed,
    /// There are enough without it.
    Surplus,
}

/// Why a node that is meant wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obstacle {
    /// It is drained.
    Drained,
    /// Nothing is heard of it.
    Gone,
    /// The workload failed there lately.
    Failed,
    /// Too little memory or too few processors are left, or it has too many workloads.
    Room,
    /// It hasn't said what it has, and the workload has limits.
    Unknown,
    /// Another workload publishes one of the ports.
    Port,
    /// No line of it is good enough.
    Line,
}

/// Copies that no node could be found for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Of which workload.
    pub workload: String,
    /// How many.
    pub copies: usize,
    /// How many nodes couldn't be taken, by reason.
    pub because: BTreeMap<Obstacle, usize>,
}

/// What to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Workloads and the nodes that they come to.
    pub place: Vec<(String, String)>,
    /// Workloads, the nodes that they leave, and why.
    pub remove: Vec<(String, String, Reason)>,
    /// What can't be had.
    pub missing: Vec<Missing>,
}

/// What to change at `now` (seconds since 1970). `failed_lately` are workloads and nodes that didn't get on. The same input
/// gives the same plan, whatever its order. What leaves a node makes room there in the next plan; after a few, nothing changes.
///
/// A copy leaves a node that is gone, or where it failed, only once there is another node for it. Room is looked at when a
/// workload comes, never to drive one away.
pub fn plan(
    now: i64,
    nodes: &[Node],
    orders: &[Order],
    placed: &[Placed],
    failed_lately: &BTreeSet<(String, String)>,
) -> Plan {
    let mut state = State::new(nodes, orders, placed);
    let mut orders: Vec<&Order> = orders.iter().collect();
    // Those for each node first: a copy can go elsewhere.
    orders.sort_by_key(|order| (order.rule.copies.is_some(), &order.workload));
    let declared: BTreeSet<&str> = orders.iter().map(|order| order.workload.as_str()).collect();
    for old in placed {
        if !declared.contains(old.workload.as_str()) {
            state.remove(&old.workload, &old.node, Reason::Removed);
        }
    }
    for order in orders {
        let mut job = Job {
            now,
            order,
            failed_lately,
            because: BTreeMap::new(),
        };
        match order.rule.copies {
            None => job.each(&mut state),
            Some(copies) => job.copies(&mut state, copies as usize),
        }
    }
    state.plan.place.sort();
    state.plan.remove.sort();
    state.plan
}

/// What a node has to do already.
#[derive(Default)]
struct Load<'a> {
    taken: Resources,
    ports: BTreeSet<Port>,
    workloads: BTreeMap<&'a str, Option<i64>>,
}

struct State<'a> {
    nodes: BTreeMap<&'a str, &'a Node>,
    loads: HashMap<&'a str, Load<'a>>,
    on: BTreeMap<&'a str, BTreeSet<&'a str>>,
    plan: Plan,
}

impl<'a> State<'a> {
    fn new(nodes: &'a [Node], orders: &'a [Order], placed: &'a [Placed]) -> Self {
        let orders: HashMap<&str, &Order> = orders
            .iter()
            .map(|order| (order.workload.as_str(), order))
            .collect();
        let mut state = Self {
            nodes: nodes.iter().map(|node| (node.id.as_str(), node)).collect(),
            loads: HashMap::new(),
            on: BTreeMap::new(),
            plan: Plan::default(),
        };
        for old in placed {
            let load = state.loads.entry(&old.node).or_default();
            load.workloads.insert(&old.workload, old.failed);
            if let Some(order) = orders.get(old.workload.as_str()) {
                load.taken.add(order.takes);
                load.ports.extend(&order.ports);
            }
            state.on.entry(&old.workload).or_default().insert(&old.node);
        }
        state
    }

    fn remove(&mut self, workload: &str, node: &str, reason: Reason) {
        self.plan
            .remove
            .push((workload.into(), node.into(), reason));
    }

    fn place(&mut self, order: &'a Order, node: &'a str) {
        let load = self.loads.entry(node).or_default();
        load.workloads.insert(&order.workload, None);
        load.taken.add(order.takes);
        load.ports.extend(&order.ports);
        self.plan.place.push((order.workload.clone(), node.into()));
    }
}

/// One order at work.
struct Job<'a> {
    now: i64,
    order: &'a Order,
    failed_lately: &'a BTreeSet<(String, String)>,
    because: BTreeMap<Obstacle, usize>,
}

impl<'a> Job<'a> {
    /// Where it is; what can't stay whatever comes is removed. The second value says since when it is no good there.
    fn stays(&self, state: &mut State<'a>) -> Vec<(&'a Node, Option<(i64, Reason)>)> {
        let there = state.on.get(self.order.workload.as_str()).cloned();
        let mut stays = Vec::new();
        for id in there.unwrap_or_default() {
            let node = state.nodes.get(id).copied();
            let node = node.filter(|node| node.is_meant(&self.order.rule.on));
            match node {
                None => state.remove(&self.order.workload, id, Reason::NotMeant),
                Some(node) if node.drained => {
                    state.remove(&self.order.workload, id, Reason::Drained);
                }
                Some(node) => {
                    let failed = state.loads.get(id).and_then(|load| {
                        let failed = load.workloads.get(self.order.workload.as_str())?;
                        Some((failed.as_ref().copied()?, Reason::Failed))
                    });
                    let gone = node.gone.map(|since| (since, Reason::Gone));
                    stays.push((node, gone.into_iter().chain(failed).min()));
                }
            }
        }
        stays
    }

    /// On each node that is meant. It waits for one that is gone, and is tried again where it failed.
    fn each(&mut self, state: &mut State<'a>) {
        let there: BTreeSet<&str> = self
            .stays(state)
            .into_iter()
            .map(|(node, _)| node.id.as_str())
            .collect();
        let nodes: Vec<&Node> = state.nodes.values().copied().collect();
        for node in nodes {
            let wanted = node.is_meant(&self.order.rule.on) && !node.drained;
            if !wanted || there.contains(node.id.as_str()) {
                continue;
            }
            match self.room(state, node) {
                None => state.place(self.order, &node.id),
                Some(obstacle) => *self.because.entry(obstacle).or_default() += 1,
            }
        }
        self.missing(state, self.because.values().sum());
    }

    /// On so many nodes.
    fn copies(&mut self, state: &mut State<'a>, copies: usize) {
        let (good, mut bad): (Vec<_>, Vec<_>) =
            self.stays(state).into_iter().partition(|(_, since)| {
                since.is_none_or(|(since, _)| !self.order.rule.move_after.passed(since, self.now))
            });
        let mut good: Vec<&Node> = good.into_iter().map(|(node, _)| node).collect();
        for node in self.surplus(&mut good, copies) {
            state.remove(&self.order.workload, &node.id, Reason::Surplus);
        }
        let found = self.find(state, &good, copies - good.len());
        let missing = copies - good.len() - found.len();
        for node in found {
            state.place(self.order, &node.id);
        }
        // Those that have been away for the shortest time are the likeliest to come back.
        bad.sort_by_key(|(node, since)| (Reverse(*since), &node.id));
        for (node, since) in bad.into_iter().skip(missing) {
            let reason = since.map_or(Reason::Surplus, |(_, reason)| reason);
            state.remove(&self.order.workload, &node.id, reason);
        }
        self.missing(state, missing);
    }

    fn missing(&mut self, state: &mut State<'a>, copies: usize) {
        if copies > 0 {
            state.plan.missing.push(Missing {
                workload: self.order.workload.clone(),
                copies,
                because: std::mem::take(&mut self.because),
            });
        }
    }

    fn place_of<'n>(&self, node: &'n Node) -> &'n str {
        let spread = self.order.rule.spread.as_ref();
        spread.map_or("", |spread: &Spread| spread.place(node))
    }

    /// Takes from `good` what is more than `copies`: from the places that have the most.
    fn surplus(&self, good: &mut Vec<&'a Node>, copies: usize) -> Vec<&'a Node> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for node in good.iter() {
            *counts.entry(self.place_of(node)).or_default() += 1;
        }
        let mut gone = Vec::new();
        while good.len() > copies {
            let worst = (0..good.len()).max_by_key(|at| {
                let node = good[*at];
                let count = counts.get(self.place_of(node));
                (node.gone.is_some(), count, self.lot(&node.id))
            });
            let Some(worst) = worst else { break };
            let node = good.swap_remove(worst);
            *counts.entry(self.place_of(node)).or_default() -= 1;
            gone.push(node);
        }
        gone
    }

    /// Up to `wanted` nodes: from the places with the fewest copies, and there the least loaded ones.
    fn find(&mut self, state: &State<'a>, good: &[&'a Node], wanted: usize) -> Vec<&'a Node> {
        let mut places: BTreeMap<&str, (usize, Vec<_>)> = BTreeMap::new();
        for node in good {
            places.entry(self.place_of(node)).or_default().0 += 1;
        }
        if wanted == 0 {
            return Vec::new();
        }
        for node in state.nodes.values().copied() {
            let there = state.loads.get(node.id.as_str());
            // It has just left a drained one, which counts as an obstacle.
            let is_there = !node.drained
                && there
                    .is_some_and(|load| load.workloads.contains_key(self.order.workload.as_str()));
            if is_there || !node.is_meant(&self.order.rule.on) {
                continue;
            }
            match self.obstacle(state, node) {
                Some(obstacle) => *self.because.entry(obstacle).or_default() += 1,
                None => {
                    let rank = (load(node, there), self.lot(&node.id), node.id.as_str());
                    let place = places.entry(self.place_of(node)).or_default();
                    place.1.push(Reverse(rank));
                }
            }
        }
        // The place with the fewest copies is on top.
        let mut queue: BinaryHeap<_> = places
            .into_iter()
            .map(|(place, (count, nodes))| {
                (Reverse(count), Reverse(place), BinaryHeap::from(nodes))
            })
            .map(|(count, place, nodes)| Next {
                count,
                place,
                nodes,
            })
            .collect();
        let mut found = Vec::new();
        while found.len() < wanted {
            let Some(mut next) = queue.pop() else { break };
            let Some(Reverse((_, _, id))) = next.nodes.pop() else {
                continue;
            };
            found.extend(state.nodes.get(id).copied());
            next.count.0 += 1;
            queue.push(next);
        }
        found
    }

    fn obstacle(&self, state: &State<'a>, node: &Node) -> Option<Obstacle> {
        if node.drained {
            return Some(Obstacle::Drained);
        }
        if node.gone.is_some() {
            return Some(Obstacle::Gone);
        }
        let here = (self.order.workload.clone(), node.id.clone());
        if self.failed_lately.contains(&here) {
            return Some(Obstacle::Failed);
        }
        if !self.order.rule.line.is_met(node) {
            return Some(Obstacle::Line);
        }
        self.room(state, node)
    }

    /// What stands against it on this node.
    fn room(&self, state: &State<'a>, node: &Node) -> Option<Obstacle> {
        let nothing = Load::default();
        let load = state.loads.get(node.id.as_str()).unwrap_or(&nothing);
        if load.workloads.len() >= MAX_ON_A_NODE {
            return Some(Obstacle::Room);
        }
        if !load.ports.is_disjoint(&self.order.ports) {
            return Some(Obstacle::Port);
        }
        if self.order.takes == Resources::default() {
            return None;
        }
        let Some(has) = node.has else {
            return Some(Obstacle::Unknown);
        };
        let mut then = load.taken;
        then.add(self.order.takes);
        (!then.is_within(has)).then_some(Obstacle::Room)
    }

    /// A number for this workload and node, so that not all workloads choose the same of equal nodes.
    fn lot(&self, node: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.order.workload, node).hash(&mut hasher);
        hasher.finish()
    }
}

/// How much of a node is taken, in thousandths of what is scarcest; a hundredth for each workload if that can't be said.
fn load(node: &Node, load: Option<&Load<'_>>) -> u64 {
    let Some(load) = load else { return 0 };
    let share = |taken: u64, has: u64| {
        let share = u128::from(taken) * 1000 / u128::from(has.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    };
    let count = load.workloads.len() as u64 * 10;
    match node.has {
        Some(has) => count
            .max(share(load.taken.memory, has.memory))
            .max(share(load.taken.cpus, has.cpus)),
        None => count,
    }
}

/// A place and the nodes that are left there, the best on top.
struct Next<'a, N> {
    count: Reverse<usize>,
    place: Reverse<&'a str>,
    nodes: BinaryHeap<N>,
}

impl<N> Next<'_, N> {
    fn rank(&self) -> (Reverse<usize>, Reverse<&str>) {
        (self.count, self.place)
    }
}

impl<N> PartialEq for Next<'_, N> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<N> Eq for Next<'_, N> {}

impl<N> PartialOrd for Next<'_, N> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<N> Ord for Next<'_, N> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests;
