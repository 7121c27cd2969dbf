-- Rollouts and what became of them on each device. Owned by rollouts/.
CREATE TABLE rollout (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    tag        TEXT NOT NULL UNIQUE,         -- what its orders' ids begin with
    version    TEXT NOT NULL,
    digest     TEXT NOT NULL,                -- of the manifest's payload
    sequence   INTEGER NOT NULL,
    channel    TEXT NOT NULL,
    template   TEXT NOT NULL,                -- the order, without its id (JSON)
    selector   TEXT NOT NULL,                -- JSON; devices named one by one are in rollout_device
    created    INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    status     TEXT NOT NULL,                -- as in state
    state      TEXT NOT NULL                 -- plan, waves and counts (JSON)
) STRICT;
CREATE INDEX rollout_status ON rollout (status, id);

CREATE TABLE rollout_device (
    rollout INTEGER NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    device  TEXT NOT NULL,
    PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;

-- A device that got a slot. It stays when the device is removed: the counts are over these rows.
CREATE TABLE assignment (
    rollout INTEGER NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    device  TEXT NOT NULL,
    state   TEXT NOT NULL,
    attempt INTEGER NOT NULL,                -- number of its order
    retries INTEGER NOT NULL,
    since   INTEGER NOT NULL,                -- when it came into the state
    due     INTEGER,                         -- when something happens to it by itself
    armed   INTEGER NOT NULL,
    running TEXT,
    note    TEXT,
    reason  TEXT,                            -- JSON
    open    INTEGER GENERATED ALWAYS AS (state NOT IN ('good', 'failed', 'expired', 'withdrawn', 'superseded')) VIRTUAL,
    PRIMARY KEY (rollout, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX assignment_device ON assignment (device, rollout);
CREATE INDEX assignment_state ON assignment (rollout, state, device);
CREATE INDEX assignment_due ON assignment (due) WHERE due IS NOT NULL;

-- What happened, to a device or (without one) to the rollout as a whole.
CREATE TABLE rollout_event (
    id      INTEGER PRIMARY KEY,
    rollout INTEGER NOT NULL REFERENCES rollout (id) ON DELETE CASCADE,
    device  TEXT,
    time    INTEGER NOT NULL,
    attempt INTEGER,
    state   TEXT,                            -- none: a remark
    text    TEXT NOT NULL DEFAULT '',
    reason  TEXT                             -- JSON
) STRICT;
CREATE INDEX rollout_event_rollout ON rollout_event (rollout, device, id);
CREATE INDEX rollout_event_device ON rollout_event (device, id) WHERE device IS NOT NULL;

-- What each device shall be. The revision grows for ever; it begins at the time, so that it does even if the database is lost.
CREATE TABLE desired (
    device   TEXT PRIMARY KEY REFERENCES device (id) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    rollout  INTEGER REFERENCES rollout (id) ON DELETE SET NULL,
    attempt  INTEGER NOT NULL DEFAULT 0,
    told     INTEGER NOT NULL DEFAULT 0      -- the revision that was pushed
) STRICT, WITHOUT ROWID;
CREATE INDEX desired_untold ON desired (device) WHERE told < revision;
CREATE INDEX desired_rollout ON desired (rollout);

-- A sweep looks at the connected ones only.
CREATE INDEX device_online ON device (id) WHERE online = 1;
