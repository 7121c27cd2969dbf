//! What disks say of their own health, by smartmontools' `smartctl`: NVMe, SATA and SAS alike. Without that program it is unknown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::Object;
use serde_json::Value;
use tokio::sync::watch;

use super::{Sources, disks};
use crate::shutdown::Shutdown;
use crate::update::real::host;

/// How often disks are asked: wear is slow, and a disk that sleeps isn't woken.
const EVERY: Duration = Duration::from_secs(3600);
/// How long a disk may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const ANSWER: u64 = 512 << 10;
/// ATA's attributes that say how much of a disk's life is left, as a normalised value from 100 down.
const LIFE_LEFT: [&str; 7] = [
    "Wear_Leveling_Count",
    "Media_Wearout_Indicator",
    "SSD_Life_Left",
    "Percent_Lifetime_Remain",
    "Percent_Life_Remaining",
    "Remaining_Lifetime_Perc",
    "Drive_Life_Remaining%",
];

/// Asks all disks now and then until `shutdown`.
pub async fn run(sources: Sources, told: watch::Sender<Arc<Object>>, mut shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(EVERY);
    let mut reasons = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => return,
        }
        let mut values = Object::new();
        for disk in disks::names(&sources.root) {
            let asked = tokio::select! {
                asked = ask(&disk) => asked,
                () = shutdown.requested() => return,
            };
            match asked {
                Ok(answer) => values.extend(health(&disk, &answer)),
                Err(error) => {
                    let reason = error.to_string();
                    if reasons.get(&disk) != Some(&reason) {
                        tracing::info!(disk, reason, "a disk's health is unknown");
                        reasons.insert(disk, reason);
                    }
                }
            }
        }
        told.send_replace(Arc::new(values));
    }
}

/// Its exit code is made of bits of which most say how the disk is, so only what it prints counts.
async fn ask(disk: &str) -> std::io::Result<Value> {
    let device = format!("/dev/{disk}");
    let args = [
        "--json",
        "--info",
        "--health",
        "--attributes",
        "--nocheck=standby",
        device.as_str(),
    ];
    let (_, said) = host::run("smartctl", &args, PATIENCE, ANSWER).await?;
    Ok(serde_json::from_slice(&said)?)
}

/// The keys of one disk, all of them beginning with `disk.<disk>.`: `healthy`, `wear_percent` (0 is new, 100 is as long as it was made
/// for), `spare_percent`, `media_errors`, `reallocated_sectors`, `pending_sectors`, `critical_warning`, `temperature_celsius`,
/// `power_on_hours`. What the disk doesn't say is left out.
pub fn health(disk: &str, answer: &Value) -> Object {
    let nvme = &answer["nvme_smart_health_information_log"];
    let scsi = &answer["scsi_error_counter_log"];
    let table = answer["ata_smart_attributes"]["table"].as_array();
    let attributes = || table.into_iter().flatten();
    let raw = |id: u64| {
        let found = attributes().find(|attribute| attribute["id"] == id)?;
        found["raw"]["value"].as_u64()
    };
    let wear = || {
        let left = attributes()
            .filter(|attribute| {
                let name = attribute["name"].as_str().unwrap_or_default();
                LIFE_LEFT.contains(&name)
            })
            .find_map(|attribute| attribute["value"].as_u64())?;
        100u64.checked_sub(left)
    };
    let uncorrected = || {
        let counts = ["read", "write", "verify"]
            .into_iter()
            .filter_map(|kind| scsi[kind]["total_uncorrected_errors"].as_u64());
        counts.reduce(u64::saturating_add)
    };
    let first = |of: [Option<u64>; 3]| of.into_iter().flatten().next();
    let numbers = [
        (
            "wear_percent",
            first([
                answer["endurance_used"]["current_percent"].as_u64(),
                nvme["percentage_used"].as_u64(),
                wear(),
            ]),
        ),
        ("spare_percent", nvme["available_spare"].as_u64()),
        ("critical_warning", nvme["critical_warning"].as_u64()),
        (
            "media_errors",
            // 187 counts what the disk couldn't mend.
            first([nvme["media_errors"].as_u64(), raw(187), uncorrected()]),
        ),
        (
            "reallocated_sectors",
            first([raw(5), answer["scsi_grown_defect_list"].as_u64(), None]),
        ),
        ("pending_sectors", raw(197)),
        (
            "temperature_celsius",
            answer["temperature"]["current"].as_u64(),
        ),
        ("power_on_hours", answer["power_on_time"]["hours"].as_u64()),
    ];
    let key = |name: &str| format!("disk.{disk}.{name}");
    let mut values = Object::new();
    for (name, number) in numbers {
        if let Some(number) = number {
            values.insert(key(name), number.into());
        }
    }
    if let Some(passed) = answer["smart_status"]["passed"].as_bool() {
        values.insert(key("healthy"), passed.into());
    }
    values
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What is of interest here of smartctl 7.3's answers about a Samsung SSD 970 EVO Plus, a SAMSUNG MZ7WD240HAFV, a HITACHI
    /// H109060SESUN600G, and 7.5's about a disk that isn't there.
    fn answers() -> [Value; 4] {
        [
            json!({
                "device": { "name": "/dev/nvme0", "protocol": "NVMe", "type": "nvme" },
                "nvme_smart_health_information_log": {
                    "available_spare": 100, "available_spare_threshold": 10, "controller_busy_time": 892, "critical_comp_time": 0,
                    "critical_warning": 0, "data_units_read": 2_025_034, "data_units_written": 1_969_459, "media_errors": 0,
                    "num_err_log_entries": 22, "percentage_used": 0, "power_cycles": 16, "power_on_hours": 3149, "temperature": 35,
                    "temperature_sensors": [35, 39], "unsafe_shutdowns": 12, "warning_temp_time": 0
                },
                "power_on_time": { "hours": 3149 },
                "smart_status": { "nvme": { "value": 0 }, "passed": true },
                "smartctl": { "exit_status": 0, "version": [7, 3] },
                "temperature": { "current": 35 }
            }),
            json!({
                "ata_smart_attributes": { "revision": 1, "table": [
                    { "id": 5, "name": "Reallocated_Sector_Ct", "raw": { "string": "0", "value": 0 }, "thresh": 10, "value": 100, "worst": 100 },
                    { "id": 9, "name": "Power_On_Hours", "raw": { "string": "84620", "value": 84620 }, "thresh": 0, "value": 83, "worst": 83 },
                    { "id": 177, "name": "Wear_Leveling_Count", "raw": { "string": "1773", "value": 1773 }, "thresh": 5, "value": 90, "worst": 90 },
                    { "id": 187, "name": "Uncorrectable_Error_Cnt", "raw": { "string": "0", "value": 0 }, "thresh": 0, "value": 100, "worst": 100 }
                ] },
                "device": { "name": "/dev/sdb", "protocol": "ATA", "type": "sat" },
                "power_on_time": { "hours": 84620 },
                "smart_status": { "passed": true },
                "temperature": { "current": 27 }
            }),
            json!({
                "device": { "name": "/dev/sda", "protocol": "SCSI", "type": "scsi" },
                "power_on_time": { "hours": 982, "minutes": 1 },
                "scsi_error_counter_log": {
                    "read": { "total_errors_corrected": 0, "total_uncorrected_errors": 2 },
                    "verify": { "total_errors_corrected": 0, "total_uncorrected_errors": 0 },
                    "write": { "total_errors_corrected": 0, "total_uncorrected_errors": 1 }
                },
                "scsi_grown_defect_list": 7,
                "smart_status": { "passed": false },
                "temperature": { "current": 27, "drive_trip": 85 }
            }),
            json!({
                "json_format_version": [1, 0],
                "smartctl": { "version": [7, 5], "messages": [{ "string": "/dev/nonexistent: Unable to detect device type", "severity": "error" }], "exit_status": 1 }
            }),
        ]
    }

    #[test]
    fn each_kind_of_disk_is_understood() {
        let [nvme, sata, sas, none] = answers();
        assert_eq!(
            Value::from(health("nvme0n1", &nvme)),
            json!({
                "disk.nvme0n1.healthy": true, "disk.nvme0n1.wear_percent": 0, "disk.nvme0n1.spare_percent": 100,
                "disk.nvme0n1.critical_warning": 0, "disk.nvme0n1.media_errors": 0,
                "disk.nvme0n1.temperature_celsius": 35, "disk.nvme0n1.power_on_hours": 3149,
            })
        );
        assert_eq!(
            Value::from(health("sdb", &sata)),
            json!({
                "disk.sdb.healthy": true, "disk.sdb.wear_percent": 10, "disk.sdb.media_errors": 0,
                "disk.sdb.reallocated_sectors": 0, "disk.sdb.temperature_celsius": 27, "disk.sdb.power_on_hours": 84620,
            })
        );
        assert_eq!(
            Value::from(health("sda", &sas)),
            json!({
                "disk.sda.healthy": false, "disk.sda.media_errors": 3, "disk.sda.reallocated_sectors": 7,
                "disk.sda.temperature_celsius": 27, "disk.sda.power_on_hours": 982,
            })
        );
        assert_eq!(
            health("sdc", &none),
            Object::new(),
            "unknown is not healthy"
        );
    }

    proptest! {
        #[test]
        fn no_answer_panics(number in any::<i64>(), which in 0..3usize, text in any::<String>()) {
            let mut answer = answers()[which].clone();
            for part in answer.as_object_mut().unwrap().values_mut() {
                let odd = json!({ "table": [{ "id": number, "name": text, "value": number, "raw": number }], "passed": number, "current": text });
                let before = std::mem::replace(part, odd);
                let _ = health("sda", &json!({ "smart_status": before }));
            }
            let _ = health("sda", &answer);
        }
    }
}
