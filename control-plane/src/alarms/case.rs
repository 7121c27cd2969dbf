//! What is judged: one device at one moment.

use cairn_alarm::Template;
use rusqlite::Transaction;

use super::device::Device;
use super::rules::Rules;

/// One device at one moment.
pub(super) struct Case<'j> {
    pub(super) tx: &'j Transaction<'j>,
    pub(super) rules: &'j Rules,
    pub(super) device: Device,
    /// Milliseconds since 1970.
    pub(super) now: i64,
}

impl Case<'_> {
    /// Whether a template is for this device.
    pub(super) fn selects(&self, template: &Template) -> bool {
        let Device {
            id,
            group,
            tags,
            revoked,
            ..
        } = &self.device;
        !revoked && template.select.matches(id, group, tags)
    }
}
