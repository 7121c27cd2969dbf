//! What comes from a network is read right, or refused with a reason; never a panic.

#![allow(clippy::unwrap_used, clippy::panic)]

use cairn_wire::attributes::Change;
use cairn_wire::topic::{self, FromDevice, Package};
use cairn_wire::{MAX_PAYLOAD, Record, RecordId, ReleaseOrder, UpdateState, WireError};
use proptest::prelude::*;
use serde_json::json;

fn records(payload: &str) -> Vec<Record> {
    Record::parse_all(payload.as_bytes()).unwrap()
}

#[test]
fn all_four_shapes_of_telemetry_are_known() {
    let plain = records(r#"{"temperature": 21.5, "ok": true}"#);
    assert_eq!(plain[0].ts, None);
    assert_eq!(plain[0].values["temperature"], 21.5);
    assert_eq!(records(r#"[{"a":1},{"b":2}]"#).len(), 2);
    let stamped = records(r#"{"ts":1451649600512,"values":{"key1":"value1"}}"#);
    assert_eq!(stamped[0].ts, Some(1_451_649_600_512));
    assert_eq!(stamped[0].values["key1"], "value1");
    let many = records(r#"[{"ts":1,"values":{"a":1}},{"ts":2,"values":{"a":2}}]"#);
    assert_eq!(many[1].ts, Some(2));
}

#[test]
fn a_value_named_ts_alone_is_a_value() {
    let record = &records(r#"{"ts": 5}"#)[0];
    assert_eq!((record.ts, &record.values["ts"]), (None, &json!(5)));
}

#[test]
fn a_record_keeps_its_id_and_may_lack_a_time() {
    let id = RecordId {
        log: "00ff".into(),
        seq: 7,
    };
    let values = json!({"a": 1}).as_object().unwrap().clone();
    let record = Record {
        ts: None,
        values,
        id: Some(id),
    };
    let (payload, count) = Record::batch(std::slice::from_ref(&record)).unwrap();
    assert_eq!(count, 1);
    assert_eq!(Record::parse_all(&payload).unwrap(), [record]);
}

#[test]
fn a_record_without_a_time_and_an_id_comes_back() {
    let written = records(r#"{"values": {"a": 1}}"#);
    assert_eq!(written[0].values["values"], json!({"a": 1}));
    let (payload, _) = Record::batch(&written).unwrap();
    assert_eq!(payload, br#"[{"values":{"a":1}}]"#);
    assert_eq!(Record::parse_all(&payload).unwrap(), written);
}

#[test]
fn a_number_comes_back_to_its_last_digit() {
    let long = "1".repeat(48);
    for number in ["12.886605882746727", "1.5996914150196107", &long] {
        let written = records(&format!(r#"{{"a":{number}}}"#));
        assert_eq!(written[0].values["a"], number.parse::<f64>().unwrap());
        let (payload, _) = Record::batch(&written).unwrap();
        assert_eq!(Record::parse_all(&payload).unwrap(), written);
    }
}

#[test]
fn bad_telemetry_says_what_is_wrong() {
    for (payload, expected) in [
        ("{", "cannot read telemetry"),
        ("7", "telemetry: expected an object, or an array of objects"),
        (
            "[1]",
            "telemetry: expected an object, or an array of objects",
        ),
        (
            r#"{"ts":"x","values":{}}"#,
            "telemetry: expected a number of milliseconds as ts",
        ),
        (
            r#"{"ts":1,"values":[]}"#,
            "telemetry: expected an object as values",
        ),
        (
            r#"{"values":{},"cairn":{"log":"XY","seq":1}}"#,
            "telemetry: expected 1 to 32 of 0-9a-f as the log of a record's id",
        ),
        (
            r#"{"values":{},"cairn":{"log":"a"}}"#,
            "cannot read a record's id",
        ),
    ] {
        assert_eq!(
            Record::parse_all(payload.as_bytes())
                .unwrap_err()
                .to_string(),
            expected,
            "{payload}"
        );
    }
    let long = vec![b' '; MAX_PAYLOAD + 1];
    assert!(matches!(Record::parse_all(&long), Err(WireError::Size(n)) if n == MAX_PAYLOAD + 1));
}

#[test]
fn a_batch_stays_below_the_limit() {
    let values = json!({"text": "x".repeat(1000)})
        .as_object()
        .unwrap()
        .clone();
    let record = Record {
        ts: Some(1),
        values,
        id: None,
    };
    let many = vec![record; 100];
    let (payload, count) = Record::batch(&many).unwrap();
    assert!(payload.len() <= MAX_PAYLOAD, "{}", payload.len());
    assert!((60..65).contains(&count), "{count}");
    assert_eq!(Record::parse_all(&payload).unwrap().len(), count);
    let values = json!({"text": "x".repeat(MAX_PAYLOAD)})
        .as_object()
        .unwrap()
        .clone();
    assert_eq!(
        Record::batch(&[Record {
            ts: None,
            values,
            id: None
        }]),
        None
    );
}

#[test]
fn topics_of_a_device_are_known_and_no_others() {
    assert_eq!(
        FromDevice::parse("v1/devices/me/telemetry").unwrap(),
        FromDevice::Telemetry
    );
    assert_eq!(
        FromDevice::parse("v1/devices/me/rpc/response/12").unwrap(),
        FromDevice::RpcResponse(12)
    );
    assert_eq!(
        FromDevice::parse(&topic::attributes_request(3)).unwrap(),
        FromDevice::AttributesRequest(3)
    );
    let chunk = FromDevice::Chunk {
        package: Package::Software,
        request: 1,
        chunk: 2,
    };
    assert_eq!(FromDevice::parse("v2/sw/request/1/chunk/2").unwrap(), chunk);
    for wrong in [
        "",
        "v1/devices/you/telemetry",
        "v1/devices/me/rpc/request/",
        "v1/devices/me/rpc/request/-1",
        "v2/fw/request/1/chunk/",
        "$SYS/x",
    ] {
        assert!(
            matches!(FromDevice::parse(wrong), Err(WireError::Topic(_))),
            "{wrong}"
        );
    }
}

#[test]
fn a_device_subscribes_to_its_own_topics_only() {
    for allowed in [
        topic::ATTRIBUTES,
        topic::RPC_REQUESTS,
        "v1/devices/me/rpc/request/7",
        "v1/devices/me/attributes/response/+",
        "v2/fw/response/+/chunk/+",
        "v2/fw/response/1/chunk/+",
    ] {
        assert!(topic::may_subscribe(allowed), "{allowed}");
    }
    for refused in [
        "#",
        "+",
        "v1/#",
        "v1/devices/+/attributes",
        "v1/devices/me/#",
        "v1/devices/you/attributes",
        "v1/devices/me/rpc/request/+/x",
        "/provision/response",
    ] {
        assert!(!topic::may_subscribe(refused), "{refused}");
    }
}

#[test]
fn changes_of_attributes_are_sets_or_deletions() {
    let set = Change::Set(json!({"a": {"b": 1}}).as_object().unwrap().clone());
    let deleted = Change::Deleted(vec!["a".into()]);
    for change in [set, deleted] {
        assert_eq!(Change::parse(&change.to_json()).unwrap(), change);
    }
    // An attribute may be called so.
    assert!(matches!(
        Change::parse(br#"{"deleted": true}"#),
        Ok(Change::Set(_))
    ));
    assert!(Change::parse(br#"{"deleted": [1]}"#).is_err());
}

#[test]
fn thingsboards_firmware_attributes_are_an_order() {
    let digest = "ab".repeat(32);
    let shared = json!({
        "fw_title": "cairn", "fw_version": "1.1.0", "fw_tag": "7", "fw_url": "https://example.org/releases/1.1.0",
        "fw_checksum": digest, "fw_checksum_algorithm": "SHA256", "fw_size": 1,
    });
    let mut shared = shared.as_object().unwrap().clone();
    let order = ReleaseOrder::from_firmware(&shared).unwrap();
    assert_eq!(order.version.as_str(), "1.1.0");
    assert_eq!(order.sequence.0, 7);
    assert_eq!(order.url, "https://example.org/releases/1.1.0/");
    assert_eq!(order.id, "fw-abababababababab");
    shared.insert("fw_checksum_algorithm".into(), "MD5".into());
    assert_eq!(ReleaseOrder::from_firmware(&shared), None);
}

#[test]
fn a_state_is_written_as_documented() {
    assert_eq!(
        serde_json::to_string(&UpdateState::OnTrial).unwrap(),
        "\"on-trial\""
    );
}

proptest! {
    #[test]
    fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = Record::parse_all(&payload);
        let _ = Change::parse(&payload);
        let _ = cairn_wire::rpc::Call::parse(&payload);
        let _ = cairn_wire::provision::Request::parse(&payload);
        let _ = cairn_wire::attributes::Request::parse(&payload);
    }

    #[test]
    fn no_topic_panics(name in ".{0,200}") {
        let _ = FromDevice::parse(&name);
        let _ = topic::may_subscribe(&name);
        let _ = topic::trailing_id(&name);
    }
}
