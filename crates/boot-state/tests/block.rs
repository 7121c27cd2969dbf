//! The block on disk: what is written, what is read, what is refused.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, which clippy can't see"
)]

use cairn_boot_state::block::{BLOCK_SIZE, HEADER, MAX_GENERATION, SECTOR};
use cairn_boot_state::{BootState, Copy, Damage, Tries, pick};

fn state() -> BootState {
    BootState {
        generation: 7,
        good: Some("1.4.0".parse().unwrap()),
        good_tries: Tries::Left(3),
        trial: Some("1.5.0+g12ab".parse().unwrap()),
        trial_tries: 2,
        failed: vec!["1.3.9".parse().unwrap(), "1.3.8".parse().unwrap()],
    }
}

/// The block with one text in place of another, filled up again.
fn edited(state: &BootState, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(state.to_block().to_vec()).unwrap();
    assert!(text.contains(from), "{from:?}");
    let mut block = text.replacen(from, to, 1).into_bytes();
    block.resize(BLOCK_SIZE, b'#');
    block
}

#[test]
fn writes_what_grub_reads() {
    let expected = "\
# GRUB Environment Block
cairn_gen=7
cairn_good=1.4.0
cairn_good_tries=xxx
cairn_trial=1.5.0+g12ab
cairn_trial_tries=xx
cairn_failed=1.3.9 1.3.8
cairn_sum=d821ae61
";
    let block = state().to_block();
    let (text, rest) = block.split_at(expected.len());
    assert_eq!(std::str::from_utf8(text).unwrap(), expected);
    assert!(rest.iter().all(|b| *b == b'#'));
}

#[test]
fn reads_back_what_it_wrote() {
    let unlimited = BootState {
        good_tries: Tries::Unlimited,
        generation: MAX_GENERATION,
        ..state()
    };
    for state in [BootState::default(), state(), unlimited] {
        assert_eq!(BootState::parse(&state.to_block()), Ok(state));
    }
}

#[test]
fn a_try_that_grub_took_keeps_the_block_valid() {
    for (from, to) in [("tries=xx\n", "tries=x\n"), ("tries=xx\n", "tries=\n")] {
        let read = BootState::parse(&edited(&state(), from, to)).unwrap();
        assert_eq!(usize::from(read.trial_tries), to.len() - "tries=\n".len());
        assert_eq!(read.good_tries, Tries::Left(3));
    }
}

#[test]
fn long_names_cost_the_oldest_failures_and_never_the_sector() {
    let long = |letter: &str| letter.repeat(64).parse().unwrap();
    let full = BootState {
        generation: MAX_GENERATION,
        good: Some(long("a")),
        good_tries: Tries::Left(9),
        trial: Some(long("b")),
        trial_tries: 9,
        failed: ["c", "d", "e", "f", "g"].map(long).to_vec(),
    };
    let block = full.to_block();
    assert!(block[SECTOR..].iter().all(|b| *b == b'#'));
    let read = BootState::parse(&block).unwrap();
    assert_eq!(read.failed, ["c", "d", "e"].map(long));
    assert_eq!(read.trial, full.trial);
}

#[test]
fn says_what_is_wrong_with_a_block() {
    let state = state();
    let value = |name: &'static str, value: &str| Damage::Value {
        name,
        value: value.to_owned(),
    };
    let table = [
        (vec![], Damage::Size(0)),
        (state.to_block()[..600].to_vec(), Damage::Size(600)),
        (vec![0; BLOCK_SIZE], Damage::NotABlock),
        (edited(&state, HEADER, "# grub\n"), Damage::NotABlock),
        (
            edited(&state, "cairn_trial=", "check_signatures="),
            Damage::Unknown("check_signatures".to_owned()),
        ),
        (
            edited(&state, "cairn_good=1.4.0\n", ""),
            Damage::Order {
                expected: "cairn_good",
                got: "cairn_good_tries",
            },
        ),
        (
            edited(&state, "cairn_sum=d821ae61\n", ""),
            Damage::Missing("cairn_sum"),
        ),
        (
            edited(&state, "821ae61\n", "821ae61\ncairn_cmdline=init=/bin/sh\n"),
            Damage::Unknown("cairn_cmdline".to_owned()),
        ),
        (
            edited(&state, "821ae61\n", "821ae61\n\n"),
            Damage::Unknown(String::new()),
        ),
        (
            edited(&state, "gen=7", "gen=9999999999"),
            value("cairn_gen", "9999999999"),
        ),
        (edited(&state, "gen=7", "gen=+7"), value("cairn_gen", "+7")),
        (edited(&state, "gen=7", "gen="), value("cairn_gen", "")),
        (
            edited(&state, "good=1.4.0", "good=../.."),
            value("cairn_good", "../.."),
        ),
        (
            edited(&state, "1.5.0+g12ab", "1; linux /evil"),
            value("cairn_trial", "1; linux /evil"),
        ),
        (
            edited(&state, "tries=xxx\n", "tries=xxy\n"),
            value("cairn_good_tries", "xxy"),
        ),
        (
            edited(&state, "tries=xx\n", "tries=-\n"),
            value("cairn_trial_tries", "-"),
        ),
        (
            edited(&state, "tries=xx\n", "tries=xxxxxxxxxx\n"),
            value("cairn_trial_tries", "xxxxxxxxxx"),
        ),
        (
            edited(&state, "1.3.9 1.3.8", "1.3.9  1.3.8"),
            value("cairn_failed", "1.3.9  1.3.8"),
        ),
        (
            edited(&state, "1.3.9 1.3.8", "5 4 3 2 1"),
            value("cairn_failed", "5 4 3 2 1"),
        ),
        (
            edited(&state, "sum=d8", "sum=D8"),
            value("cairn_sum", "D821ae61"),
        ),
        (
            edited(&state, "cairn_good=1.4.0", "cairn_good=1.4.1"),
            Damage::Checksum {
                expected: 0x121f_5df2,
                got: 0xd821_ae61,
            },
        ),
    ];
    for (block, damage) in table {
        assert_eq!(BootState::parse(&block), Err(damage));
    }

    let mut block = state.to_block();
    block[1000] = b' ';
    assert_eq!(BootState::parse(&block), Err(Damage::Padding(1000)));
    block[1000] = b'\n';
    assert!(matches!(BootState::parse(&block), Err(Damage::Unknown(_))));
}

#[test]
fn a_message_shows_no_more_of_a_hostile_text_than_it_needs() {
    let long = edited(&state(), "1.4.0", &"$(reboot)".repeat(50));
    let damage = BootState::parse(&long[..BLOCK_SIZE]).unwrap_err();
    assert!(damage.to_string().len() < 120, "{damage}");
}

#[test]
fn the_newest_valid_copy_rules() {
    let old = state();
    let new = BootState {
        generation: 8,
        trial: None,
        trial_tries: 0,
        ..state()
    };
    let (old_block, new_block) = (old.to_block(), new.to_block());
    let bad = vec![b'x'; BLOCK_SIZE];
    let default = BootState::default();
    type Row<'a> = (&'a [u8], &'a [u8], &'a BootState, Option<Copy>);
    let table: [Row; 6] = [
        (&old_block, &new_block, &new, Some(Copy::B)),
        (&new_block, &old_block, &new, Some(Copy::A)),
        (&old_block, &old_block, &old, Some(Copy::A)),
        (&bad, &old_block, &old, Some(Copy::B)),
        (&old_block, &[], &old, Some(Copy::A)),
        (&bad, &[], &default, None),
    ];
    for (a, b, state, from) in table {
        let picked = pick(a, b);
        assert_eq!((&picked.state, picked.from), (state, from));
        let damaged: Vec<_> = picked.damaged.iter().map(|(copy, _)| *copy).collect();
        let expected: Vec<_> = [(Copy::A, a), (Copy::B, b)]
            .into_iter()
            .filter(|(_, block)| BootState::parse(block).is_err())
            .map(|(copy, _)| copy)
            .collect();
        assert_eq!(damaged, expected);
    }
}

#[test]
fn a_cut_between_the_two_writes_leaves_the_old_or_the_new_state() {
    let old = state();
    let next = BootState {
        generation: 8,
        trial: None,
        trial_tries: 0,
        ..state()
    };
    let torn = [0xff; BLOCK_SIZE];
    for (a, b) in [
        (old.to_block(), old.to_block()),
        (old.to_block(), torn),
        (torn, old.to_block()),
    ] {
        let mut copies = [a, b];
        for copy in pick(&a, &b).write_order() {
            let at = usize::from(copy == Copy::B);
            for written in [torn, next.to_block()] {
                copies[at] = written;
                let state = pick(&copies[0], &copies[1]).state;
                assert!(state == old || state == next, "{state:?}");
            }
        }
        assert_eq!(copies, [next.to_block(); 2]);
    }
}

/// Deterministic noise (xorshift64*), so that a failure can be run again.
struct Noise(u64);

impl Noise {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(value).unwrap() % end
    }
}

#[test]
fn no_mutation_panics_or_changes_more_than_tries() {
    let original = state();
    let clean = original.to_block();
    let used = clean.iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let mut noise = Noise(0x00C0_FFEE);
    let mut survived = 0;
    for _ in 0..20_000 {
        let mut block = clean.to_vec();
        for _ in 0..=noise.below(3) {
            let at = noise.below(used);
            match noise.below(5) {
                0 => block[at] ^= 1 << noise.below(8),
                1 => block[at] = b"\n=#x- \0\xff"[noise.below(8)],
                2 => drop(block.remove(at)),
                3 => block.insert(at, b"\n=x#0"[noise.below(5)]),
                _ => {
                    let from = noise.below(used);
                    let piece: Vec<_> = block.iter().copied().skip(from).take(40).collect();
                    block.splice(at..at, piece);
                }
            }
        }
        if noise.below(50) > 0 {
            block.resize(BLOCK_SIZE, b'#');
        }
        let Ok(read) = BootState::parse(&block) else {
            continue;
        };
        survived += 1;
        let same_but_tries = BootState {
            good_tries: original.good_tries,
            trial_tries: original.trial_tries,
            ..read
        };
        assert_eq!(same_but_tries, original);
    }
    assert!(survived > 0, "no mutation hit the tries");
}
