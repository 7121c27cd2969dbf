//! Whose turn it is to fetch an image from the server, where several nodes of a site want it.
//!
//! There is no chief. Each node says what it does, and asks all others what they do before it does more:
//!
//! ```text
//!             nobody claims or fetches,
//!             and who else wants has a greater id         nobody claims or fetches
//!   wants ─────────────────────────────────────▶ claims ──────────────────────────▶ fetches
//!     ▲                                             │
//!     └─────────────────────────────────────────────┘
//!       somebody fetches, or somebody with a lesser id claims
//! ```
//!
//! A node fetches only after it had said that it claims and then heard from everybody else. So of two that do, one would
//! have heard of the other's claim. Lamport's bakery, with ids for numbers.

use cairn_wire::neighbour::Role;

/// What the node `me`, which does `role`, does next, having heard what others do. Nodes that don't answer are no others:
/// when the one that fetches dies, the next takes its place.
pub fn next<'i>(me: &str, role: Role, others: impl IntoIterator<Item = (&'i str, Role)>) -> Role {
    let others: Vec<_> = others.into_iter().filter(|(id, _)| *id != me).collect();
    let any = |what: Role| others.iter().any(|(_, role)| *role == what);
    let before_me = |what: Role| others.iter().any(|(id, role)| *role == what && *id < me);
    match role {
        Role::Fetches => Role::Fetches,
        _ if any(Role::Fetches) => Role::Wants,
        Role::Wants if any(Role::Claims) || before_me(Role::Wants) => Role::Wants,
        Role::Claims if before_me(Role::Claims) => Role::Wants,
        // It gives way, once it has heard of this one.
        Role::Claims if !any(Role::Claims) => Role::Fetches,
        Role::Wants | Role::Claims => Role::Claims,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: [&str; 4] = ["a", "b", "c", "d"];

    /// A site of nodes, each of which asks one other after the other, while those go on.
    struct Site {
        /// What each says; `None`: it isn't there.
        says: Vec<Option<Role>>,
        /// What each has heard since it last decided.
        heard: Vec<Vec<(usize, Role)>>,
        /// Whom it asks next.
        asks: Vec<usize>,
    }

    impl Site {
        fn new() -> Self {
            Self {
                says: vec![None; IDS.len()],
                heard: vec![Vec::new(); IDS.len()],
                asks: vec![0; IDS.len()],
            }
        }

        /// The node comes, asks one other, or decides.
        fn step(&mut self, node: usize) {
            let Some(role) = self.says[node] else {
                (self.asks[node], self.heard[node]) = (0, Vec::new());
                self.says[node] = Some(Role::Wants);
                return;
            };
            if let Some(other) = self.says.get(self.asks[node]) {
                if let Some(role) = other {
                    self.heard[node].push((self.asks[node], *role));
                }
                self.asks[node] += 1;
                return;
            }
            let heard = self.heard[node].drain(..).map(|(id, role)| (IDS[id], role));
            self.says[node] = Some(next(IDS[node], role, heard));
            self.asks[node] = 0;
        }

        fn fetching(&self) -> usize {
            let fetches = |role: &&Option<Role>| **role == Some(Role::Fetches);
            self.says.iter().filter(fetches).count()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn never_two_and_in_the_end_one(steps in prop::collection::vec((0usize..4, 0u8..40), 0..300)) {
            let mut site = Site::new();
            for (node, what) in steps {
                if what == 0 {
                    site.says[node] = None;
                } else {
                    site.step(node);
                }
                prop_assert!(site.fetching() <= 1);
            }
            for _ in 0..200 {
                (0..IDS.len()).for_each(|node| site.step(node));
            }
            prop_assert_eq!(site.fetching(), 1);
        }
    }

    #[test]
    fn alone_it_fetches_at_once() {
        let claims = next("a", Role::Wants, []);
        assert_eq!(
            (claims, next("a", claims, [])),
            (Role::Claims, Role::Fetches)
        );
    }

    #[test]
    fn who_came_first_goes_on() {
        for mine in [Role::Wants, Role::Claims] {
            assert_eq!(next("a", mine, [("b", Role::Fetches)]), Role::Wants);
        }
        assert_eq!(
            next("b", Role::Fetches, [("a", Role::Claims)]),
            Role::Fetches
        );
    }
}
