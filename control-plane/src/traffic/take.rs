//! A node's record: judged, kept, and booked, each once.

use cairn_release::Digest;
use cairn_traffic::chain::{self, Fit, Known, MOST_METERS, Signed};
use cairn_traffic::{Kind, Meter};
use cairn_traffic::{Record, Slot};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

use super::series::{self, Dimension};
use super::sum::Sum;
use crate::registry::is_label;
use crate::store::StoreError;

/// How far a slot may be ahead of the server's clock, in milliseconds: a day.
const AHEAD_MS: i64 = 86_400_000;
/// Bytes in five minutes that no line carries: 70 TB, at 1.9 Tbit/s.
const MOST_BYTES: u64 = 1 << 46;
/// A meter's name has at most so many bytes.
const LONGEST: usize = 128;
/// Of what can't be right so much is kept for one device.
const MOST_FAULTS: i64 = 1000;

/// What is known of a device.
struct Device {
    key: Option<Vec<u8>>,
    group: String,
    supplier: Option<String>,
    tags: Vec<String>,
}

/// Takes what a device sent under [`chain::KEY`], at `received` (milliseconds since 1970). What can't be right is kept and
/// said, and costs nothing else.
///
/// # Errors
/// The database's.
pub fn take(
    tx: &Transaction<'_>,
    device: &str,
    value: &Value,
    received: i64,
) -> Result<(), StoreError> {
    let fault = |kind: &str, counted: bool, reason: &str| {
        fault(tx, device, received, kind, counted, reason, value)
    };
    let Some(known) = known(tx, device)? else {
        return Ok(());
    };
    let signed: Signed = match serde_json::from_value(value.clone()) {
        Ok(signed) => signed,
        Err(error) => return fault("unreadable", false, &error.to_string()),
    };
    let record = &signed.record;
    if let Err(reason) = check(record, received) {
        return fault("unusable", false, &reason);
    }
    if let Err(reason) = verify(&signed, known.key.as_deref()) {
        return fault("signature", false, reason);
    }
    let fit = chain::fit(record, &around(tx, device, record)?);
    match fit {
        Fit::Again => return Ok(()),
        Fit::Changed => {
            return fault("changed", false, "another record of its number came before");
        }
        Fit::Broken => fault(
            "broken",
            true,
            "it is bound to another record than the one beside it",
        )?,
        Fit::New => {}
    }
    keep(tx, device, record, value)?;
    book(tx, device, &known, record)
}

fn known(tx: &Transaction<'_>, device: &str) -> Result<Option<Device>, StoreError> {
    let row = tx
        .prepare_cached("SELECT public_key, grp, supplier FROM device WHERE id = ?1")?
        .query_row([device], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((key, group, supplier)) = row else {
        return Ok(None);
    };
    let mut tags = tx.prepare_cached("SELECT tag FROM device_tag WHERE device = ?1")?;
    let tags = tags.query_map([device], |row| row.get(0))?;
    Ok(Some(Device {
        key,
        group,
        supplier,
        tags: tags.collect::<Result<_, _>>()?,
    }))
}

fn check(record: &Record, received: i64) -> Result<(), String> {
    if !is_label(&record.chain) {
        return Err(format!(
            "chain: expected 1 to 64 of A-Za-z0-9._-, got {:?}",
            record.chain
        ));
    }
    if i64::try_from(record.number).is_err() {
        return Err(format!("number: {} is too large", record.number));
    }
    if record.slot > Slot::of(received.saturating_add(AHEAD_MS)) || record.slot < Slot::of(0) {
        return Err(format!("slot: {} is too far from now", record.slot.start()));
    }
    if record.usage.len() > MOST_METERS {
        return Err(format!("usage: more than {MOST_METERS} meters"));
    }
    for usage in &record.usage {
        let Meter {
            name,
            customer,
            business,
            ..
        } = &usage.meter;
        if name.is_empty() || name.len() > LONGEST || name.contains(['/', '\n']) {
            return Err(format!("usage: {name:?} is no name of a meter"));
        }
        let labels = customer.iter().chain(business);
        if let Some(label) = labels.into_iter().find(|label| !is_label(label)) {
            return Err(format!(
                "usage: expected 1 to 64 of A-Za-z0-9._- as customer and business, got {label:?}"
            ));
        }
        if business.is_some() && customer.is_none() {
            return Err("usage: a business without a customer".into());
        }
        if usage.rx.max(usage.tx) > MOST_BYTES {
            return Err(format!("usage: {name} carried more than any line can"));
        }
    }
    Ok(())
}

/// A device that enrolled with a key signs all its records with it.
fn verify(signed: &Signed, key: Option<&[u8]>) -> Result<(), &'static str> {
    let Some(key) = key else { return Ok(()) };
    let signature = signed.signature.as_deref().ok_or("it isn't signed")?;
    let signature = hex::decode(signature).map_err(|_| "its signature isn't hexadecimal")?;
    let (_, key) =
        SubjectPublicKeyInfo::from_der(key).map_err(|_| "the device's key can't be read")?;
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.subject_public_key.data);
    let verified = key.verify(&signed.record.to_sign(), &signature);
    verified.map_err(|_| "its signature is wrong")
}

fn around(tx: &Transaction<'_>, device: &str, record: &Record) -> Result<Known, StoreError> {
    let mut found = tx.prepare_cached(
        "SELECT digest, previous FROM traffic_record WHERE device = ?1 AND chain = ?2 AND number = ?3",
    )?;
    let mut at = |number: Option<u64>| -> Result<Option<(Digest, Option<Digest>)>, StoreError> {
        let Some(number) = number.and_then(|number| i64::try_from(number).ok()) else {
            return Ok(None);
        };
        let row = found.query_row(params![device, record.chain, number], |row| {
            let previous: Option<[u8; 32]> = row.get(1)?;
            Ok((Digest(row.get(0)?), previous.map(Digest)))
        });
        Ok(row.optional()?)
    };
    let number = record.number;
    Ok(Known {
        same: at(Some(number))?.map(|(digest, _)| digest),
        before: at(number.checked_sub(1))?.map(|(digest, _)| digest),
        after: at(number.checked_add(1))?.map(|(_, previous)| previous),
    })
}

fn keep(
    tx: &Transaction<'_>,
    device: &str,
    record: &Record,
    value: &Value,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO traffic_record (device, chain, number, slot, digest, previous, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        device,
        record.chain,
        i64::try_from(record.number).unwrap_or(i64::MAX),
        series::number(record.slot),
        record.digest().0,
        record.previous.map(|digest| digest.0),
        value.to_string(),
    ])?;
    Ok(())
}

/// Adds the record to every series that it belongs to, as its device and its customers are now.
fn book(
    tx: &Transaction<'_>,
    device: &str,
    known: &Device,
    record: &Record,
) -> Result<(), StoreError> {
    let mut sums = std::collections::BTreeMap::<(Dimension, String, Kind), Sum>::new();
    for usage in &record.usage {
        let meter = &usage.meter;
        let of_device = |dimension, name: &str| (dimension, name.to_owned(), meter.kind);
        let mut subjects = vec![
            of_device(Dimension::All, ""),
            of_device(Dimension::Device, device),
            of_device(Dimension::Meter, &format!("{device}/{}", meter.name)),
            of_device(Dimension::Group, &known.group),
        ];
        subjects.extend(
            known
                .supplier
                .iter()
                .map(|name| of_device(Dimension::Supplier, name)),
        );
        subjects.extend(known.tags.iter().map(|tag| of_device(Dimension::Tag, tag)));
        if let Some(customer) = &meter.customer {
            subjects.push(of_device(Dimension::Customer, customer));
            let business = meter.business.as_ref();
            subjects.extend(
                business.map(|name| of_device(Dimension::Business, &format!("{customer}/{name}"))),
            );
        }
        let sum = Sum {
            rx: usage.rx,
            tx: usage.tx,
            meters: 1,
            estimated: u32::from(usage.estimated),
        };
        for subject in subjects {
            *sums.entry(subject).or_default() += sum;
        }
    }
    for ((dimension, name, kind), sum) in sums {
        let id = series::id_or_new(tx, dimension, &name, kind)?;
        series::add(tx, id, record.slot, sum)?;
    }
    Ok(())
}

fn fault(
    tx: &Transaction<'_>,
    device: &str,
    received: i64,
    kind: &str,
    counted: bool,
    reason: &str,
    value: &Value,
) -> Result<(), StoreError> {
    tracing::warn!(device, kind, reason, "a record of traffic can't be right");
    let kept: i64 = tx
        .prepare_cached("SELECT count(*) FROM traffic_fault WHERE device = ?1")?
        .query_row([device], |row| row.get(0))?;
    if kept < MOST_FAULTS {
        tx.prepare_cached(
            "INSERT INTO traffic_fault (device, time, kind, counted, reason, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![device, received, kind, counted, reason, value.to_string()])?;
    }
    Ok(())
}
