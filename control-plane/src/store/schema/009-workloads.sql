-- Workloads, and which device runs which; disks. Owned by workloads/ and disks.rs; the columns by registry/ and desired.rs.
ALTER TABLE device ADD COLUMN drained INTEGER;                         -- since when it shall run no workloads
ALTER TABLE desired ADD COLUMN workloads INTEGER NOT NULL DEFAULT 0;   -- whether a workload was ever placed there

CREATE TABLE workload (
    name       TEXT PRIMARY KEY,
    declared   TEXT NOT NULL,                -- as the device reads it (JSON)
    rule       TEXT NOT NULL,                -- where it shall run (JSON)
    missing    TEXT,                         -- what the last plan found no node for (JSON)
    changed    INTEGER NOT NULL,
    changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Users of registries that images come from.
CREATE TABLE registry_login (
    registry   TEXT PRIMARY KEY,             -- a host, with its port if it has one
    user       TEXT NOT NULL,
    password   TEXT NOT NULL,                -- never shown, never logged; devices that need it get it
    changed    INTEGER NOT NULL,
    changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Where it runs, and where it ran lately. A row outlives its workload until the device has been told.
CREATE TABLE placement (
    workload TEXT NOT NULL,
    device   TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    since    INTEGER NOT NULL,
    ended    INTEGER,                        -- when it was taken away; none: it is there
    reason   TEXT,                           -- why
    PRIMARY KEY (workload, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX placement_device ON placement (device, workload) WHERE ended IS NULL;
CREATE INDEX placement_ended ON placement (ended) WHERE ended IS NOT NULL;

-- How a device's disks shall be laid out. Owned by disks.rs.
CREATE TABLE disk_layout (
    device     TEXT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    declared   TEXT NOT NULL,                -- as the device reads it (JSON)
    changed    INTEGER NOT NULL,
    changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;
