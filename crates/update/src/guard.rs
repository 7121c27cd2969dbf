//! Whether a release may be taken at all.

use cairn_wire::ReleaseOrder;
use cairn_wire::report::FailureKind;

use crate::state::{Cause, Facts, Running};

/// Judges an order before anything is fetched. Its sequence is only a claim, but a claim to be low is enough to refuse.
///
/// # Errors
/// Why not.
pub fn order(order: &ReleaseOrder, running: &Running) -> Result<(), Cause> {
    // The bootloader looks away from such a folder.
    if order.version.as_str().ends_with(".partial") {
        return Err(Cause::lasting(
            FailureKind::Refused,
            format!("{} is no version that can be installed", order.version),
        ));
    }
    if order.version == running.version && order.digest != running.digest {
        return Err(Cause::lasting(
            FailureKind::Refused,
            format!(
                "{} runs already, with other content: a version never changes",
                order.version
            ),
        ));
    }
    if order.sequence <= running.sequence && order.downgrade.is_none() {
        return Err(downgrade(order.sequence.0, running));
    }
    Ok(())
}

/// Judges a manifest that is properly signed.
///
/// # Errors
/// Why not.
pub fn release(order: &ReleaseOrder, facts: &Facts, running: &Running) -> Result<(), Cause> {
    let refused = |reason: String| Err(Cause::lasting(FailureKind::Refused, reason));
    if facts.digest != order.digest {
        return refused(format!(
            "expected the manifest {}, got {}",
            order.digest, facts.digest
        ));
    }
    if facts.version != order.version {
        return refused(format!(
            "expected a manifest of {}, got one of {}",
            order.version, facts.version
        ));
    }
    if facts.architecture != running.architecture {
        return refused(format!(
            "it is for {}, this node is {}",
            facts.architecture, running.architecture
        ));
    }
    if !facts
        .compatible
        .iter()
        .any(|kind| running.compatible.contains(kind))
    {
        return refused(format!(
            "it is for {}, what runs here is for {}",
            facts.compatible.join(", "),
            running.compatible.join(", ")
        ));
    }
    if facts.sequence <= running.sequence && !facts.downgrade_allowed {
        return Err(downgrade(facts.sequence.0, running));
    }
    if running.sequence < facts.minimum_sequence {
        return refused(format!(
            "it can be reached from sequence {} on, {} has {}",
            facts.minimum_sequence, running.version, running.sequence
        ));
    }
    Ok(())
}

fn downgrade(sequence: u64, running: &Running) -> Cause {
    Cause::lasting(
        FailureKind::Downgrade,
        format!(
            "its sequence {sequence} is not above {} of {}, and no valid signed order allows that",
            running.sequence, running.version
        ),
    )
}
