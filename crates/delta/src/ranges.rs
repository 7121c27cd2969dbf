//! What is missing, as ranges to ask a server for: few and long.

use crate::runs::Run;

/// Joins runs that lie at most `gap` blocks apart: a request and its answer's head cost
/// as much as some blocks that are there already.
pub fn coalesce(missing: &[Run], gap: u32) -> Vec<Run> {
    let mut ranges: Vec<Run> = Vec::new();
    for run in missing {
        match ranges.last_mut() {
            Some(last) if run.at.saturating_sub(last.end()) <= gap => {
                last.count = run.end() - last.at;
            }
            _ => ranges.push(*run),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_runs_are_asked_for_together() {
        let run = |at, count| Run { at, count };
        let missing = [run(0, 2), run(3, 1), run(10, 4), run(20, 1)];
        assert_eq!(coalesce(&missing, 0), missing);
        assert_eq!(coalesce(&missing, 1), [run(0, 4), run(10, 4), run(20, 1)]);
        assert_eq!(coalesce(&missing, 6), [run(0, 21)]);
        assert_eq!(coalesce(&[], 4), []);
    }
}
