//! What leaves a node: one record for each slot, numbered without a gap, each with the digest of the one before. The node
//! signs the digest with its key, so that who has the records can show that none was left out or changed.

use cairn_release::Digest;
use serde::{Deserialize, Serialize};

use crate::meter::Meter;
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

/// The telemetry key under which a [`Signed`] record travels.
pub const KEY: &str = "cairn_traffic";

/// What a signature is over begins with this, so that it is never one of anything else.
const DOMAIN: &[u8] = b"cairn-traffic-v1\n";

/// Meters in one record at most; a slot with more has more records. So a record fits any message.
pub const MOST_METERS: usize = 200;

/// A record as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// What was counted.
    pub record: Record,
    /// ECDSA P-256 with SHA-256 over [`Record::to_sign`] by the node's key, in ASN.1, in hexadecimal digits. A node without
    /// a key of its own has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

impl Record {
    /// SHA-256 of its JSON, fields in the order of their definition, without spaces.
    pub fn digest(&self) -> Digest {
        // Writing to memory doesn't fail, and every key is a text.
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// What is signed.
    pub fn to_sign(&self) -> Vec<u8> {
        [DOMAIN, &self.digest().0].concat()
    }
}

/// What is known of a record's chain around it. Records come in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The digest of the record with its number.
    pub same: Option<Digest>,
    /// The digest of the one before it.
    pub before: Option<Digest>,
    /// What the one after it says of it.
    pub after: Option<Option<Digest>>,
}

/// How a record fits into its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// It is new, and nothing that is known speaks against it.
    New,
    /// It came before.
    Again,
    /// It is new, and bound to another one than the one beside it: something was changed, or left out.
    Broken,
    /// Another one of its number came before.
    Changed,
}

/// How a record fits to what is known.
pub fn fit(record: &Record, known: &Known) -> Fit {
    let digest = record.digest();
    match known.same {
        Some(same) if same == digest => return Fit::Again,
        Some(_) => return Fit::Changed,
        None => {}
    }
    let first = record.number == 0;
    let follows = first == record.previous.is_none()
        && known
            .before
            .is_none_or(|before| record.previous == Some(before));
    let followed = known.after.is_none_or(|after| after == Some(digest));
    if follows && followed {
        Fit::New
    } else {
        Fit::Broken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn what_was_changed_or_left_out_shows() {
        let zero = record(0, None);
        let one = record(1, Some(&zero));
        let nothing = Known::default();
        assert_eq!(fit(&zero, &nothing), Fit::New);
        assert_eq!(fit(&one, &nothing), Fit::New);
        let before = Known {
            before: Some(zero.digest()),
            ..nothing
        };
        assert_eq!(fit(&one, &before), Fit::New);
        let changed = Record {
            slot: Slot::of(300_000),
            ..zero.clone()
        };
        assert_eq!(fit(&record(1, Some(&changed)), &before), Fit::Broken);
        assert_eq!(fit(&record(1, None), &nothing), Fit::Broken);
        assert_eq!(fit(&record(0, Some(&zero)), &nothing), Fit::Broken);
        let after = Known {
            after: Some(one.previous),
            ..nothing
        };
        assert_eq!(
            (fit(&zero, &after), fit(&changed, &after)),
            (Fit::New, Fit::Broken)
        );
        let same = Known {
            same: Some(zero.digest()),
            ..nothing
        };
        assert_eq!(
            (fit(&zero, &same), fit(&changed, &same)),
            (Fit::Again, Fit::Changed)
        );
    }

    #[test]
    fn a_record_is_written_in_one_way() {
        let text = r#"{"chain":"a","number":1,"previous":null,"slot":300,"usage":[{"meter":{"kind":"interface","name":"eth0"},"rx":5,"tx":6}]}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
        assert_eq!(record.digest(), Digest::of(text.as_bytes()));
        // Through a telemetry message, whose keys are in another order.
        let signed = Signed {
            record: record.clone(),
            signature: None,
        };
        let value = serde_json::to_value(signed).unwrap();
        let back: Signed = serde_json::from_value(value).unwrap();
        assert_eq!(back.record.digest(), record.digest());
    }

    proptest! {
        /// A whole chain in any order, with repeats: each record is new once, and nothing is broken.
        #[test]
        fn order_and_repeats_do_not_matter(order in prop::collection::vec(0usize..12, 1..60)) {
            let mut chain: Vec<Record> = Vec::new();
            for number in 0..12 {
                chain.push(record(number, chain.last()));
            }
            let mut here: Vec<Option<&Record>> = vec![None; 12];
            for at in order {
                let known = Known {
                    same: here[at].map(Record::digest),
                    before: at.checked_sub(1).and_then(|at| here[at]).map(Record::digest),
                    after: here.get(at + 1).copied().flatten().map(|after| after.previous),
                };
                let expected = if here[at].is_some() { Fit::Again } else { Fit::New };
                prop_assert_eq!(fit(&chain[at], &known), expected);
                here[at] = Some(&chain[at]);
            }
        }
    }
}
