//! What a workload's Docker container is made of.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use cairn_wire::workload::{Network, Protocol, Restart, Source, Volume, Word, Workload};
use cairn_workload::seen;

use super::volumes;

const SECOND: i64 = 1_000_000_000;

/// Unprivileged, without capabilities but those that it names, and never with more than it began with.
pub fn body(node: &str, workload: &Workload, volumes: &Path) -> io::Result<ContainerCreateBody> {
    let limits = &workload.limits;
    let memory = limits.memory.and_then(|memory| i64::try_from(memory).ok());
    let text = |value: &str| Some(value.to_owned());
    let (network, ports) = (&workload.network, ports(workload));
    let host = HostConfig {
        memory,
        // The same as memory: no swap beside it.
        memory_swap: memory,
        nano_cpus: limits.cpus.and_then(|cpus| i64::try_from(cpus.nano()).ok()),
        pids_limit: Some(limits.pids.into()),
        devices: Some(
            workload
                .devices
                .iter()
                .map(|device| DeviceMapping {
                    path_on_host: text(device.path.as_str()),
                    path_in_container: text(device.path.as_str()),
                    cgroup_permissions: text(if device.write { "rw" } else { "r" }),
                })
                .collect(),
        ),
        mounts: Some(
            workload
                .volumes
                .iter()
                .map(|volume| mount(workload, volume, volumes))
                .collect::<io::Result<_>>()?,
        ),
        network_mode: Some(match network {
            Network::Bridge => "bridge".to_owned(),
            Network::Host => "host".to_owned(),
            Network::None => "none".to_owned(),
            Network::Named(name) => name.to_string(),
        }),
        port_bindings: Some(ports),
        restart_policy: Some(restart_policy(workload.restart)),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(
            workload
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(workload.read_only),
        // A bounded log, which the disk can bear.
        log_config: Some(HostConfigLogConfig {
            typ: text("local"),
            config: Some(
                [("max-size", "8m"), ("max-file", "2")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
        }),
        ..HostConfig::default()
    };
    let words = |words: &Option<Vec<Word>>| {
        words
            .as_ref()
            .map(|words| words.iter().map(ToString::to_string).collect())
    };
    Ok(ContainerCreateBody {
        image: Some(workload.image.local()),
        entrypoint: words(&workload.entrypoint),
        cmd: words(&workload.command),
        env: Some(
            workload
                .environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        user: workload.user.as_ref().map(ToString::to_string),
        labels: Some(seen::labels(node, workload).into_iter().collect()),
        exposed_ports: Some(workload.ports.iter().map(inside).collect()),
        stop_timeout: Some(workload.stop.grace_seconds.into()),
        healthcheck: workload.health.as_ref().map(|health| HealthConfig {
            test: Some(
                ["CMD".to_owned()]
                    .into_iter()
                    .chain(health.command.iter().map(ToString::to_string))
                    .collect(),
            ),
            interval: Some(i64::from(health.interval_seconds) * SECOND),
            timeout: Some(i64::from(health.timeout_seconds) * SECOND),
            retries: Some(health.retries.into()),
            start_period: Some(i64::from(health.start_period_seconds) * SECOND),
            ..HealthConfig::default()
        }),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// When Docker starts it again by itself.
pub fn restart_policy(rule: Restart) -> RestartPolicy {
    RestartPolicy {
        name: Some(match rule {
            // Not `always`: what somebody stopped by hand stays down when Docker restarts.
            Restart::Always => RestartPolicyNameEnum::UNLESS_STOPPED,
            Restart::OnFailure => RestartPolicyNameEnum::ON_FAILURE,
            Restart::Never => RestartPolicyNameEnum::NO,
        }),
        maximum_retry_count: None,
    }
}

fn inside(port: &cairn_wire::workload::Port) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", port.container)
}

fn ports(workload: &Workload) -> HashMap<String, Option<Vec<PortBinding>>> {
    let mut ports: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &workload.ports {
        let bindings = ports.entry(inside(port)).or_default();
        bindings.get_or_insert_default().push(PortBinding {
            host_ip: port.address.map(|address| address.to_string()),
            host_port: Some(port.host.to_string()),
        });
    }
    ports
}

/// A folder of its own is made if it is missing; a folder of the node isn't.
fn mount(workload: &Workload, volume: &Volume, folder: &Path) -> io::Result<Mount> {
    let source = match &volume.source {
        Source::HostPath(path) => path.to_string(),
        Source::Volume(name) => {
            let folder = folder.join(workload.name.as_str()).join(name.as_str());
            volumes::make(&folder, workload.user.as_ref())?;
            folder
                .into_os_string()
                .into_string()
                .map_err(|_| io::Error::other("the folder of volumes has no name in UTF-8"))?
        }
    };
    Ok(Mount {
        target: Some(volume.target.to_string()),
        source: Some(source),
        typ: Some(MountType::BIND),
        read_only: Some(volume.read_only),
        ..Mount::default()
    })
}
