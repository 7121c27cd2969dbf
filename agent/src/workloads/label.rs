//! Whose node it is, as the labels of its Docker containers say.

use std::path::Path;

use crate::files;

/// The longest label, in bytes.
const LIMIT: u64 = 256;

/// The machine id that the node had first, kept in the agent's folder: a factory reset makes another machine id, and Docker's containers
/// outlive it.
pub fn of_node(folder: &Path, machine_id: &Path) -> String {
    let file = folder.join("workloads-node");
    let known = files::read(&file, LIMIT).ok().flatten().unwrap_or_default();
    let known = String::from_utf8_lossy(&known);
    if !known.trim().is_empty() {
        return known.trim().to_owned();
    }
    let id = std::fs::read_to_string(machine_id).unwrap_or_default();
    let id = Some(id.trim()).filter(|id| !id.is_empty());
    let id = id.unwrap_or("node");
    if let Err(error) = files::replace(&file, id.as_bytes()) {
        tracing::warn!(file = %file.display(), %error, "cannot keep whose the containers are");
    }
    id.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stays_itself_when_its_machine_id_changes() {
        let folder = tempfile::tempdir().unwrap();
        let machine_id = folder.path().join("machine-id");
        std::fs::write(&machine_id, "0123\n").unwrap();
        assert_eq!(of_node(folder.path(), &machine_id), "0123");
        std::fs::write(&machine_id, "4567\n").unwrap();
        assert_eq!(of_node(folder.path(), &machine_id), "0123");
    }

    #[test]
    fn a_node_without_a_machine_id_has_a_label_too() {
        let folder = tempfile::tempdir().unwrap();
        let label = of_node(folder.path(), &folder.path().join("none"));
        assert_eq!(label, "node");
    }
}
