//! What the node's settings allow a workload beyond what each may do.

use std::collections::BTreeSet;

use cairn_wire::workload::{AbsolutePath, Capability, Network, Source, Workload};

/// What is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// The node's own network.
    pub host_network: bool,
    /// Folders of the node, and what lies in them.
    pub host_paths: Vec<AbsolutePath>,
    /// Devices of the node, and those in these folders.
    pub devices: Vec<AbsolutePath>,
    /// Capabilities.
    pub capabilities: BTreeSet<Capability>,
}

impl Allowed {
    /// Whether a workload asks for nothing else.
    ///
    /// # Errors
    /// Names what it asks for, and the setting that would allow it.
    pub fn check(&self, workload: &Workload) -> Result<(), String> {
        let refused = |what: &str, setting| {
            Err(format!(
                "this node doesn't allow {what} (workloads.{setting})"
            ))
        };
        let within = |path: &AbsolutePath, list: &[AbsolutePath]| {
            list.iter().any(|allowed| path.is_in(allowed))
        };
        if workload.network == Network::Host && !self.host_network {
            return refused("the host's network", "host-network");
        }
        for volume in &workload.volumes {
            if let Source::HostPath(path) = &volume.source
                && !within(path, &self.host_paths)
            {
                return refused(&format!("the folder {path}"), "host-paths");
            }
        }
        for device in &workload.devices {
            if !within(&device.path, &self.devices) {
                return refused(&format!("the device {}", device.path), "devices");
            }
        }
        for capability in &workload.capabilities {
            if !self.capabilities.contains(capability) {
                return refused(&format!("the capability {capability}"), "capabilities");
            }
        }
        Ok(())
    }
}
