//! A report as telemetry: ours, and ThingsBoard's own keys beside it.

use cairn_wire::{Object, UpdateReport, UpdateState, report};
use serde_json::Value;

/// The values of the record.
pub fn values(update: &UpdateReport) -> Object {
    let mut values = Object::new();
    // Names, numbers and lists always have a JSON form.
    values.insert(
        report::KEY.into(),
        serde_json::to_value(update).unwrap_or_default(),
    );
    let mut text = |key: &str, value: String| values.insert(key.to_owned(), Value::String(value));
    text("fw_state", update.state.firmware_state().to_owned());
    text("target_fw_version", update.version.to_string());
    if let Some(running) = &update.running {
        text("current_fw_title", "cairn".to_owned());
        text("current_fw_version", running.to_string());
    }
    if update.state == UpdateState::Failed
        && let Some(failure) = &update.failure
    {
        text("fw_error", failure.reason.clone());
    }
    values
}
