-- Alarms, and whose devices and accounts are a supplier's. Owned by alarms/; the two columns by registry/ and people/.
ALTER TABLE device ADD COLUMN supplier TEXT;  -- whose it is; none: the operator's own
ALTER TABLE account ADD COLUMN supplier TEXT; -- whose people they are; none: the operator's

-- One row. The tag changes with templates, silences and channels, so that who remembers them knows when to read them again.
CREATE TABLE alarm_rules (
    tag    BLOB NOT NULL,
    seeded INTEGER NOT NULL                  -- whether the built-in templates were put there
) STRICT;
INSERT INTO alarm_rules VALUES (randomblob(16), 0);

CREATE TABLE alarm_template (
    name    TEXT PRIMARY KEY,
    rule    TEXT NOT NULL,                   -- JSON
    offline INTEGER,                         -- milliseconds; set if every device is watched for its connection
    changed INTEGER NOT NULL                 -- seconds since 1970, as all times here that don't say otherwise
) STRICT, WITHOUT ROWID;

CREATE TABLE alarm_silence (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    rule       TEXT NOT NULL,                -- JSON
    until      INTEGER NOT NULL,
    note       TEXT NOT NULL,
    created    INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;

CREATE TABLE alarm_channel (
    name     TEXT PRIMARY KEY,
    settings TEXT NOT NULL,                  -- JSON, with its secrets: never shown, never logged
    changed  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is known of a template, a device and an instance. There is no row where nothing ever was wrong, but for what is waited for.
CREATE TABLE alarm_track (
    device   TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    template TEXT NOT NULL,
    instance TEXT NOT NULL,
    state    TEXT,                           -- JSON; none: nothing has happened yet
    open     INTEGER NOT NULL DEFAULT 0,     -- whether a life is open
    due      INTEGER,                        -- milliseconds: when time alone may change something
    PRIMARY KEY (device, template, instance)
) STRICT, WITHOUT ROWID;
CREATE INDEX alarm_track_due ON alarm_track (due) WHERE due IS NOT NULL;
CREATE INDEX alarm_track_open ON alarm_track (device) WHERE open;
CREATE INDEX alarm_track_template ON alarm_track (template);

-- A device that never comes is offline too.
CREATE TRIGGER alarm_watches AFTER INSERT ON device BEGIN
    INSERT OR IGNORE INTO alarm_track (device, template, instance, due)
    SELECT NEW.id, name, '', unixepoch() * 1000 + offline FROM alarm_template WHERE offline IS NOT NULL;
END;

-- A life.
CREATE TABLE alarm (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    device          TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    template        TEXT NOT NULL,
    instance        TEXT NOT NULL,
    life            INTEGER NOT NULL,        -- as in the track
    supplier        TEXT,                    -- who saw it
    resource        TEXT NOT NULL,
    condition       TEXT NOT NULL,           -- for people
    severity        TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('pending', 'firing', 'acknowledged', 'resolved')),
    flapping        INTEGER NOT NULL DEFAULT 0,
    value           TEXT,                    -- JSON: with which it began
    began           INTEGER NOT NULL,
    fired           INTEGER,
    acknowledged    INTEGER,
    acknowledged_by TEXT,
    resolved        INTEGER
) STRICT;
CREATE INDEX alarm_life ON alarm (device, template, instance, life);
CREATE INDEX alarm_status ON alarm (status, id);
CREATE INDEX alarm_supplier ON alarm (supplier, id) WHERE supplier IS NOT NULL;

CREATE TABLE alarm_event (
    id    INTEGER PRIMARY KEY,
    alarm INTEGER NOT NULL REFERENCES alarm (id) ON DELETE CASCADE,
    time  INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    text  TEXT NOT NULL
) STRICT;
CREATE INDEX alarm_event_alarm ON alarm_event (alarm, id);

-- What people are to be told, until they were.
CREATE TABLE alarm_delivery (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    alarm    INTEGER NOT NULL REFERENCES alarm (id) ON DELETE CASCADE,
    channel  TEXT NOT NULL,
    notice   TEXT NOT NULL,                  -- fired, escalated-N or resolved: each once for a life and a channel
    facts    TEXT NOT NULL,                  -- JSON: how it was then
    created  INTEGER NOT NULL,
    state    TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sent', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next     INTEGER NOT NULL,               -- milliseconds: not before
    reason   TEXT,                           -- why the last attempt failed
    done     INTEGER,                        -- when it was sent, or given up
    UNIQUE (alarm, channel, notice)
) STRICT;
CREATE INDEX alarm_delivery_queue ON alarm_delivery (channel, next) WHERE state = 'queued';
