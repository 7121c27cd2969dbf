//! The transitions as a picture.
//!
//! [`EDGES`] is what docs/state-machine.md shows. A test finds every transition of [`crate::step`] by trying each event in
//! each phase, and compares.

/// One transition: from, to, and what leads there.
pub type Edge = (&'static str, &'static str, &'static str);

/// All of them.
pub const EDGES: &[Edge] = &[
    ("Idle", "Checking", "ordered"),
    (
        "Idle",
        "OnTrial",
        "started, and nobody knows the release that runs",
    ),
    (
        "Idle",
        "Failing",
        "started, and a release that failed runs again",
    ),
    (
        "Checking",
        "Planned",
        "manifest trusted, allowed, and it fits",
    ),
    ("Planned", "Fetching", "room made"),
    ("Fetching", "Verifying", "every byte is there"),
    ("Verifying", "Fetching", "damaged, for the first time"),
    ("Verifying", "Verified", "read back, and right"),
    ("Verified", "Placed", "renamed, flushed, frozen and thawed"),
    ("Placed", "Armed", "boot state names the trial"),
    ("Placed", "OnTrial", "started on trial"),
    ("Armed", "OnTrial", "started on trial"),
    ("OnTrial", "Proven", "healthy for the soak time"),
    ("Proven", "Idle", "boot state names it good: Good"),
    ("Checking", "Failing", "failed or withdrawn"),
    ("Planned", "Failing", "failed or withdrawn"),
    ("Fetching", "Failing", "failed or withdrawn"),
    ("Verifying", "Failing", "failed or withdrawn"),
    ("Verified", "Failing", "failed"),
    ("Placed", "Failing", "failed, or fell back"),
    ("Armed", "Failing", "fell back, failed or withdrawn"),
    ("OnTrial", "Failing", "fell back, or unhealthy"),
    (
        "Proven",
        "Failing",
        "fell back, or the boot state can't be written",
    ),
    ("Failing", "Idle", "evidence kept, boot state told: Failed"),
];

/// The picture, for Mermaid.
pub fn mermaid() -> String {
    let mut text = String::from("stateDiagram-v2\n    [*] --> Idle\n");
    for (from, to, label) in EDGES {
        text += &format!("    {from} --> {to}: {label}\n");
    }
    text
}
