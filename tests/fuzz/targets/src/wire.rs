//! What the agent and the control plane read from each other.

use cairn_wire::attributes::{self, Change};
use cairn_wire::enrol::{EnrolRequest, ErrorBody, Identity, RenewRequest};
use cairn_wire::neighbour::Holding;
use cairn_wire::rpc::{Call, Reply};
use cairn_wire::topic::{self, FromDevice};
use cairn_wire::{Desired, MAX_PAYLOAD, Record, ReleaseOrder, UpdateReport, provision};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::memory::within;

/// JSON that may be anything: the worst is an object of one entry, 5 bytes of text, which
/// is a node of 632 bytes; and lists of such that become another list.
fn bound(length: usize) -> usize {
    192 * length + 4096
}

/// Every message there is, and the topics.
pub fn wire(input: &[u8]) -> bool {
    let taken = [
        message::<Desired>(input),
        message::<ReleaseOrder>(input),
        message::<Call>(input),
        message::<Reply>(input),
        message::<attributes::Request>(input),
        message::<attributes::Response>(input),
        message::<Holding>(input),
        message::<Identity>(input),
        message::<ErrorBody>(input),
        message::<EnrolRequest>(input),
        message::<RenewRequest>(input),
        message::<provision::Request>(input),
        message::<UpdateReport>(input),
        change(input),
        records(input),
        std::str::from_utf8(input).is_ok_and(topics),
    ];
    taken.contains(&true)
}

/// What was read comes back when it is written.
fn message<T: Serialize + DeserializeOwned>(input: &[u8]) -> bool {
    let read = within(bound(input.len()), || serde_json::from_slice::<T>(input));
    let Ok(message) = read else {
        return false;
    };
    let written = serde_json::to_vec(&message).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    true
}

fn change(input: &[u8]) -> bool {
    let Ok(change) = within(bound(input.len()), || Change::parse(input)) else {
        return false;
    };
    if let Change::Set(shared) = &change
        && let Some(order) = ReleaseOrder::from_firmware(shared)
    {
        assert!(order.url.ends_with('/') && order.id.len() <= 64);
    }
    let json = change.to_json();
    assert!(json.len() > MAX_PAYLOAD || Change::parse(&json).ok() == Some(change));
    true
}

fn records(input: &[u8]) -> bool {
    let Ok(records) = within(bound(input.len()), || Record::parse_all(input)) else {
        return false;
    };
    let mut rest = &records[..];
    while let Some((payload, count)) = Record::batch(rest) {
        assert!(payload.len() <= MAX_PAYLOAD);
        let again = Record::parse_all(&payload).expect("what was written can be read");
        assert_eq!(again, rest[..count]);
        rest = &rest[count..];
    }
    !records.is_empty()
}

fn topics(name: &str) -> bool {
    let id = topic::trailing_id(name);
    match FromDevice::parse(name) {
        Ok(FromDevice::AttributesRequest(n) | FromDevice::RpcRequest(n)) => {
            assert_eq!(id, Some(n));
        }
        Ok(FromDevice::RpcResponse(n)) => {
            let same = FromDevice::parse(&topic::rpc_response(n));
            assert_eq!(same.ok(), Some(FromDevice::RpcResponse(n)));
        }
        _ => {}
    }
    let may = topic::may_subscribe(name);
    assert!(!may || !name.contains('#'));
    may || FromDevice::parse(name).is_ok()
}
