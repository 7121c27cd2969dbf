//! Records as nodes send them, through the store of telemetry.

use cairn_traffic::chain::{self, Signed, Usage};
use cairn_traffic::{Kind, Meter};
use cairn_traffic::{Record, Slot};
use cairn_wire::Object;
use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rusqlite::params;

use super::series::{Dimension, id, number, read};
use super::sum::Sum;
use super::{chains, days};
use crate::store::{Store, StoreError};
use crate::telemetry::Intake;

/// The beginning of a slot, in seconds.
const BEGIN: i64 = 1_800_000_000;

struct Server {
    _folder: tempfile::TempDir,
    store: Store,
    key: KeyPair,
}

impl Server {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cairn.db")).unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let public = key.subject_public_key_info();
        store
            .write::<_, StoreError, _>(move |tx| {
                tx.execute(
                    "INSERT INTO device (id, name, grp, supplier, created, public_key) VALUES ('d', 'd', 'g', 's', 0, ?1)",
                    params![public],
                )?;
                tx.execute("INSERT INTO device (id, name, created) VALUES ('unkeyed', 'u', 0)", [])?;
                tx.execute("INSERT INTO device_tag (device, tag) VALUES ('d', 'fast')", [])?;
                Ok(())
            })
            .await
            .unwrap();
        Self {
            _folder: folder,
            store,
            key,
        }
    }

    fn sign(&self, record: Record) -> Signed {
        let signature = self.key.sign(&record.to_sign()).unwrap();
        Signed {
            record,
            signature: Some(hex::encode(signature)),
        }
    }

    async fn send(&self, device: &'static str, signed: &Signed) {
        let value = serde_json::to_value(signed).unwrap();
        let values: Object = [(chain::KEY.to_owned(), value)].into_iter().collect();
        let record = cairn_wire::Record {
            ts: None,
            values,
            id: None,
        };
        let received = (BEGIN + 4000) * 1000;
        self.store
            .write::<_, StoreError, _>(move |tx| {
                let mut intake = Intake::new(tx, device, received)?;
                intake.records(vec![record])?;
                intake.finish()
            })
            .await
            .unwrap();
    }

    async fn sums(&self, dimension: Dimension, name: &'static str, kind: Kind) -> Vec<Option<Sum>> {
        let first = BEGIN / 300;
        self.store
            .read::<_, StoreError, _>(move |c| match id(c, dimension, name, kind)? {
                Some(series) => read(c, series, first..first + 4),
                None => Ok(Vec::new()),
            })
            .await
            .unwrap()
    }

    async fn faults(&self, device: &'static str) -> Vec<(String, bool)> {
        let sent = self
            .store
            .read::<_, StoreError, _>(move |c| chains::sent(c, device))
            .await
            .unwrap();
        let told = sent
            .faults
            .into_iter()
            .map(|fault| (fault.kind, fault.counted));
        told.collect()
    }
}

fn meter(kind: Kind, name: &str, customer: Option<&str>) -> Meter {
    Meter {
        kind,
        name: name.into(),
        customer: customer.map(str::to_owned),
        business: customer.map(|_| "video".to_owned()),
    }
}

fn record(number: u64, previous: Option<&Record>, slot: i64, rx: u64) -> Record {
    let usage = |meter: Meter, rx: u64| Usage {
        meter,
        rx,
        tx: rx * 10,
        estimated: false,
    };
    Record {
        chain: "c1".into(),
        number,
        previous: previous.map(Record::digest),
        slot: Slot::of((BEGIN + slot * 300) * 1000),
        usage: vec![
            usage(meter(Kind::Interface, "eth0", None), rx * 3),
            usage(meter(Kind::Container, "a", Some("acme")), rx),
            usage(meter(Kind::Container, "b", Some("acme")), rx),
        ],
    }
}

fn sum(rx: u64, meters: u32) -> Option<Sum> {
    Some(Sum {
        rx,
        tx: rx * 10,
        meters,
        estimated: 0,
    })
}

#[tokio::test]
async fn each_record_counts_once_for_everybody_whom_it_concerns() {
    let server = Server::new().await;
    let zero = record(0, None, 0, 5);
    let one = record(1, Some(&zero), 2, 7);
    // Late, and twice.
    for record in [&one, &zero, &one, &zero] {
        server.send("d", &server.sign(record.clone())).await;
    }
    let (interface, container) = (Kind::Interface, Kind::Container);
    for (dimension, name, kind, times, meters) in [
        (Dimension::All, "", container, 2, 2),
        (Dimension::All, "", interface, 3, 1),
        (Dimension::Device, "d", interface, 3, 1),
        (Dimension::Meter, "d/a", container, 1, 1),
        (Dimension::Customer, "acme", container, 2, 2),
        (Dimension::Business, "acme/video", container, 2, 2),
        (Dimension::Supplier, "s", interface, 3, 1),
        (Dimension::Group, "g", container, 2, 2),
        (Dimension::Tag, "fast", interface, 3, 1),
    ] {
        let expected = [sum(5 * times, meters), None, sum(7 * times, meters), None];
        assert_eq!(
            server.sums(dimension, name, kind).await,
            expected,
            "{dimension} {name}"
        );
    }
    assert_eq!(
        server.sums(Dimension::Customer, "acme", interface).await,
        []
    );
    assert_eq!(server.faults("d").await, []);

    // Packed, it is the same, and what comes late is added.
    let now = number(Slot::of(BEGIN * 1000)) + 10 * 288;
    assert!(days::pack(&server.store, now).await.unwrap() > 10);
    assert_eq!(days::pack(&server.store, now).await.unwrap(), 0);
    let two = record(2, Some(&one), 2, 100);
    server.send("d", &server.sign(two)).await;
    let expected = [sum(5, 1), None, sum(107, 2), None];
    assert_eq!(
        server.sums(Dimension::Meter, "d/a", container).await,
        expected
    );
    days::pack(&server.store, now).await.unwrap();
    assert_eq!(
        server.sums(Dimension::Meter, "d/a", container).await,
        expected
    );
}

#[tokio::test]
async fn what_was_edited_left_out_or_made_up_shows() {
    let server = Server::new().await;
    let zero = record(0, None, 0, 5);
    let good = server.sign(zero.clone());
    // Edited on its way, without a signature, and by somebody else.
    let mut edited = good.clone();
    edited.record.usage[1].rx = 1;
    let unsigned = Signed {
        signature: None,
        ..good.clone()
    };
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let foreign = Signed {
        signature: Some(hex::encode(other.sign(&zero.to_sign()).unwrap())),
        ..good.clone()
    };
    for wrong in [&edited, &unsigned, &foreign] {
        server.send("d", wrong).await;
    }
    let signature = ("signature".to_owned(), false);
    assert_eq!(server.faults("d").await, vec![signature; 3]);
    assert_eq!(server.sums(Dimension::All, "", Kind::Container).await, []);

    // The node itself says two things.
    server.send("d", &good).await;
    server.send("d", &server.sign(record(0, None, 0, 6))).await;
    assert_eq!(server.faults("d").await[0], ("changed".to_owned(), false));
    let forgotten = record(0, None, 1, 1);
    server
        .send("d", &server.sign(record(1, Some(&forgotten), 1, 8)))
        .await;
    assert_eq!(server.faults("d").await[0], ("broken".to_owned(), true));
    let expected = [sum(5, 1), sum(8, 1), None, None];
    assert_eq!(
        server.sums(Dimension::Meter, "d/a", Kind::Container).await,
        expected
    );

    // One is missing.
    server
        .send("d", &server.sign(record(4, Some(&zero), 3, 1)))
        .await;
    let sent = server
        .store
        .read::<_, StoreError, _>(|c| chains::sent(c, "d"))
        .await
        .unwrap();
    assert_eq!((sent.chains[0].records, sent.chains[0].missing), (3, 2));
}

#[tokio::test]
async fn nonsense_is_kept_and_costs_nothing() {
    let server = Server::new().await;
    let valid = Signed {
        record: record(0, None, 0, 5),
        signature: None,
    };
    type Change = fn(&mut Record);
    let changes: [Change; 6] = [
        |record| record.chain = "a b".into(),
        |record| record.slot = Slot::of((BEGIN + 200_000) * 1000),
        |record| record.usage[0].rx = u64::MAX,
        |record| record.usage[0].meter.name = "a/b".into(),
        |record| record.usage[1].meter.customer = Some("x\ny".into()),
        |record| record.usage[1].meter.customer = None,
    ];
    for change in changes {
        let mut wrong = valid.clone();
        change(&mut wrong.record);
        server.send("unkeyed", &wrong).await;
    }
    assert_eq!(
        server.faults("unkeyed").await,
        vec![("unusable".to_owned(), false); 6]
    );
    // A device without a key of its own has nothing to sign with.
    server.send("unkeyed", &valid).await;
    let sums = server
        .sums(Dimension::Customer, "acme", Kind::Container)
        .await;
    assert_eq!(sums[0], sum(10, 2));
}

#[tokio::test]
async fn what_a_device_invents_keeps_no_other_record_out() {
    let server = Server::new().await;
    let slot = Slot::of(BEGIN * 1000);
    let invented = Sum {
        rx: u64::MAX,
        tx: 1,
        meters: 1,
        estimated: 0,
    };
    let known = server
        .store
        .write::<_, StoreError, _>(move |tx| {
            let all = super::series::id_or_new(tx, Dimension::All, "", Kind::Interface)?;
            for _ in 0..2 {
                super::series::add(tx, all, slot, invented)?;
            }
            read(tx, all, number(slot)..number(slot) + 1)
        })
        .await
        .unwrap();
    let sum = known[0].unwrap();
    assert_eq!((sum.rx, sum.tx, sum.meters), (i64::MAX as u64, 2, 2));
}
