//! What leaves a node: one record for each slot, numbered without a gap, each with the digest of the one before. The node
//! signs the digest with its key, so that who has the records can show that none was left out or changed.

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use crate::ledger::Meter;
use crate::slot::Slot;

/// Bytes of a meter in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Usage {
    /// Which.
    pub meter: Meter,
    /// Bytes received.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
    /// Nobody read the counters for longer than a slot: the sum over that time is exact, its parts are even.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

/// A slot's traffic. A slot may have more than one, if the node's clock was set; its traffic is their sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Record {
    /// Names the chain. A node that lost its ledger begins another one.
    pub chain: String,
    /// Counts up from 0.
    pub number: u64,
    /// The digest of the record before; none for the first.
    pub previous: Option<Digest>,
    /// When.
    pub slot: Slot,
    /// By meter, in order; one without traffic is there with 0.
    pub usage: Vec<Usage>,
}

/// A record doesn't follow what is known of its node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Some before it haven't come.
    #[error("record {got} came, and {expected} is still missing")]
    Missing {
        /// The next one.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// It is of another chain: the node has lost its ledger, and has a new one.
    #[error("record {number} is of the chain {got:?}, expected {expected:?}")]
    Other {
        /// The one that is known.
        expected: String,
        /// The record's.
        got: String,
        /// Its number.
        number: u64,
    },
    /// It came before, and isn't known any more.
    #[error("record {0} came before, and what it was isn't known any more")]
    Forgotten(u64),
    /// One of its number is known, and is another.
    #[error("record {0} was changed: its digest is another than when it first came")]
    Changed(u64),
    /// It is bound to another one than the one before it.
    #[error("record {0} doesn't follow the one before it: something was changed or left out")]
    Broken(u64),
}

/// What is known of a node's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tip {
    /// Which chain.
    pub chain: String,
    /// The number of the next record.
    pub next: u64,
    /// The digest of the last one.
    pub digest: Option<Digest>,
}

impl Record {
    /// What is signed: SHA-256 of its JSON, fields in the order of their definition, without spaces.
    pub fn digest(&self) -> Digest {
        // Writing to memory doesn't fail, and every key is a text.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Tip {
    /// Before the first record of a chain.
    pub fn begin(chain: String) -> Self {
        Self {
            chain,
            next: 0,
            digest: None,
        }
    }

    /// Takes the next record in; `false` if it was taken before. `known` gives the digest of an earlier one.
    ///
    /// # Errors
    /// If it doesn't follow.
    pub fn take(
        &mut self,
        record: &Record,
        known: impl FnOnce(u64) -> Option<Digest>,
    ) -> Result<bool, ChainError> {
        let number = record.number;
        if record.chain != self.chain {
            return Err(ChainError::Other {
                expected: self.chain.clone(),
                got: record.chain.clone(),
                number,
            });
        }
        if number > self.next {
            return Err(ChainError::Missing {
                expected: self.next,
                got: number,
            });
        }
        let digest = record.digest();
        if number < self.next {
            return match known(number) {
                Some(known) if known == digest => Ok(false),
                Some(_) => Err(ChainError::Changed(number)),
                None => Err(ChainError::Forgotten(number)),
            };
        }
        if record.previous != self.digest {
            return Err(ChainError::Broken(number));
        }
        self.next += 1;
        self.digest = Some(digest);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64, previous: Option<&Record>) -> Record {
        Record {
            chain: "a".into(),
            number,
            previous: previous.map(Record::digest),
            slot: Slot::of(0),
            usage: Vec::new(),
        }
    }

    #[test]
    fn what_is_missing_changed_or_left_out_shows() {
        let (zero, mut tip) = (record(0, None), Tip::begin("a".into()));
        let one = record(1, Some(&zero));
        assert_eq!(
            tip.take(&one, |_| None),
            Err(ChainError::Missing {
                expected: 0,
                got: 1
            })
        );
        assert_eq!(tip.take(&zero, |_| None), Ok(true));
        assert_eq!(tip.take(&zero, |_| Some(zero.digest())), Ok(false));
        let changed = Record {
            slot: Slot::of(300_000),
            ..zero.clone()
        };
        assert_eq!(
            tip.take(&changed, |_| Some(zero.digest())),
            Err(ChainError::Changed(0))
        );
        assert_eq!(
            tip.take(&record(1, Some(&changed)), |_| None),
            Err(ChainError::Broken(1))
        );
        assert_eq!(tip.take(&one, |_| None), Ok(true));
        assert_eq!(tip.take(&zero, |_| None), Err(ChainError::Forgotten(0)));
        let other = Record {
            chain: "b".into(),
            ..zero
        };
        assert!(matches!(
            tip.take(&other, |_| None),
            Err(ChainError::Other { number: 0, .. })
        ));
    }

    #[test]
    fn a_record_is_written_in_one_way() {
        let text = r#"{"chain":"a","number":1,"previous":null,"slot":300,"usage":[{"meter":{"kind":"interface","name":"eth0"},"rx":5,"tx":6}]}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(record.digest(), Digest::of(text.as_bytes()));
    }
}
