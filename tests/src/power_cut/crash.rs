//! What a power cut can leave of a disk.
//!
//! Between two flushes a disk may write what it was given in any order, and so lose
//! any of it; of the last write any sectors may be missing. What is never assumed: a
//! sector of 512 bytes that is half old and half new. What a flush came after, and what
//! was written with FUA, is there.

use std::ops::Range;

use super::log::Op;

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is on the disk.
    Whole,
    /// It is lost.
    Lost,
    /// These of its sectors are on the disk.
    Torn(Vec<bool>),
}

impl Fate {
    /// The parts of an operation of `len` bytes that are on the disk.
    pub fn parts(&self, len: u64, sector: u64) -> Vec<Range<u64>> {
        match self {
            Self::Whole => std::iter::once(0..len).collect(),
            Self::Lost => Vec::new(),
            Self::Torn(kept) => {
                let kept = kept.iter().zip(0..len / sector).filter(|(kept, _)| **kept);
                kept.map(|(_, number)| number * sector..(number + 1) * sector)
                    .collect()
            }
        }
    }
}

/// A power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// How many operations are on the disk for sure.
    pub position: usize,
    /// What became of those that follow; of all others there is nothing.
    pub fates: Vec<Fate>,
}

impl Crash {
    /// The one that leaves the first `position` operations and nothing else.
    pub fn after(position: usize) -> Self {
        Self {
            position,
            fates: Vec::new(),
        }
    }

    /// One between `from` and the next flush, chosen by `random`: how far the machine
    /// came, what of it is on the disk, and whether the last write is torn. A disk writes
    /// `sector` bytes wholly or not at all.
    pub fn random(ops: &[Op], from: usize, sector: u64, random: &mut Random) -> Self {
        let rest = ops.get(from..).unwrap_or_default();
        let reach = rest.iter().take_while(|op| **op != Op::Flush).count();
        let come = match reach {
            0 => 0,
            _ => 1 + random.below(reach),
        };
        // In order, nearly all, half, nearly nothing.
        let lost_of_ten = [0, 1, 5, 9][random.below(4)];
        let mut fates: Vec<Fate> = rest[..come]
            .iter()
            .map(|op| match op {
                Op::Write { fua: true, .. } => Fate::Whole,
                _ if random.below(10) < lost_of_ten => Fate::Lost,
                _ => Fate::Whole,
            })
            .collect();
        // The last one may have reached the disk in part, whatever its flag.
        if let Some((fate, op)) = fates.last_mut().zip(rest[..come].last())
            && let Some((_, len)) = op.range()
            && random.below(2) == 0
        {
            let sectors = usize::try_from(len / sector).unwrap_or(0);
            let first = random.below(sectors + 1);
            let in_order = random.below(2) == 0;
            let kept = |number| match in_order {
                true => number < first,
                false => random.below(2) == 0,
            };
            *fate = Fate::Torn((0..sectors).map(kept).collect());
        }
        Self {
            position: from,
            fates,
        }
    }
}

/// Numbers that are the same for the same seed (SplitMix64, Steele and others 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `limit`, which isn't 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: u64 = 512;

    fn write(sectors: u64, fua: bool) -> Op {
        let (at, len, data) = (0, sectors * 512, 0);
        Op::Write { at, len, data, fua }
    }

    #[test]
    fn parts_are_whole_sectors() {
        let torn = Fate::Torn(vec![true, false, true]);
        assert_eq!(torn.parts(1536, 512), [0..512, 1024..1536]);
        let whole = Fate::Whole.parts(1536, 512);
        assert_eq!((whole.len(), &whole[0]), (1, &(0..1536)));
        assert_eq!(Fate::Lost.parts(1536, 512), []);
    }

    #[test]
    fn never_beyond_a_flush_and_never_without_a_durable_write() {
        let ops = [
            write(1, true),
            write(3, false),
            write(1, false),
            Op::Flush,
            write(1, false),
        ];
        let mut random = Random::new(1);
        let (mut lost, mut torn, mut short) = (0, 0, 0);
        for _ in 0..500 {
            let crash = Crash::random(&ops, 0, SECTOR, &mut random);
            assert!((1..=3).contains(&crash.fates.len()));
            if crash.fates.len() > 1 {
                assert_eq!(crash.fates[0], Fate::Whole);
            }
            short += usize::from(crash.fates.len() < 3);
            let has = |wanted: fn(&Fate) -> bool| usize::from(crash.fates.iter().any(wanted));
            lost += has(|fate| *fate == Fate::Lost);
            torn += has(|fate| matches!(fate, Fate::Torn(_)));
        }
        assert!(
            lost > 50 && torn > 50 && short > 50,
            "{lost} {torn} {short}"
        );
    }

    #[test]
    fn a_seed_gives_the_same_power_cuts() {
        let ops = [write(8, false), write(8, false), write(8, false)];
        let crashes = |seed| -> Vec<Crash> {
            let mut random = Random::new(seed);
            let crash = |_| Crash::random(&ops, 0, SECTOR, &mut random);
            (0..20).map(crash).collect()
        };
        assert_eq!(crashes(7), crashes(7));
        assert_ne!(crashes(7), crashes(8));
        assert_eq!(Crash::random(&[], 0, SECTOR, &mut Random::new(1)).fates, []);
    }
}
