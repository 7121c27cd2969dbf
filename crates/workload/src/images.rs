//! Which images go to keep to the budget: only such as were pulled for a workload, the one that is out of use for longest first.

use std::collections::BTreeSet;

use crate::memory::Memory;
use crate::seen::Seen;

/// An image that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// Its id.
    pub id: String,
    /// Its names by digest.
    pub names: Vec<String>,
    /// Its bytes; what it shares with others counts for each.
    pub size: u64,
}

/// The names of images to remove, so that all of ours take at most `budget` bytes as far as that can be had. `wanted` are the names of
/// those that are declared. An image that a Docker container has, running or not, whoever's it is, stays: so the one to roll back to does.
pub fn clean_up(
    memory: &Memory,
    budget: u64,
    present: &[Present],
    seen: &[Seen],
    wanted: &BTreeSet<String>,
) -> (Memory, Vec<String>) {
    let mut memory = memory.clone();
    let used: BTreeSet<&str> = seen.iter().map(|seen| seen.image_id.as_str()).collect();
    let mut total = 0;
    let mut unused = Vec::new();
    memory.images.retain(|name, _| {
        wanted.contains(name) || present.iter().any(|image| image.names.contains(name))
    });
    for (name, since) in &mut memory.images {
        let Some(image) = present.iter().find(|image| image.names.contains(name)) else {
            continue;
        };
        total += image.size;
        if used.contains(image.id.as_str()) || wanted.contains(name) {
            *since = None;
            continue;
        }
        let since = *since.get_or_insert_with(|| {
            memory.uses += 1;
            memory.uses
        });
        unused.push((since, image.size, name.clone()));
    }
    unused.sort();
    let mut gone = Vec::new();
    for (_, size, name) in unused {
        if total <= budget {
            break;
        }
        total -= size;
        gone.push(name);
    }
    (memory, gone)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::seen::Run;

    fn present(name: &str) -> Present {
        Present {
            id: format!("id-{name}"),
            names: vec![name.to_owned()],
            size: 10,
        }
    }

    #[test]
    fn only_ours_go_and_the_longest_unused_first() {
        let mut memory = Memory::default();
        for name in ["a", "b", "c", "used", "wanted"] {
            memory.pulling(name);
        }
        let images = ["a", "b", "c", "used", "wanted", "foreign"].map(present);
        let seen = ["c", "used", "foreign"].map(|name| Seen {
            id: name.to_owned(),
            name: name.to_owned(),
            labels: BTreeMap::new(),
            image_id: format!("id-{name}"),
            image: name.to_owned(),
            run: Run::Exited {
                code: 0,
                oom: false,
            },
            restarts: 0,
        });
        let wanted: BTreeSet<String> = ["wanted".to_owned()].into();
        let (memory, gone) = clean_up(&memory, 40, &images, &seen, &wanted);
        assert_eq!(gone, ["a"]);
        // c is out of use last, and so it goes last; nothing that is in use or somebody else's ever does.
        let (memory, gone) = clean_up(&memory, 0, &images, &seen[1..], &wanted);
        assert_eq!(gone, ["a", "b", "c"]);
        let (memory, gone) = clean_up(&memory, 0, &images[3..], &seen, &wanted);
        assert!(gone.is_empty());
        assert_eq!(memory.images.len(), 2);
    }
}
