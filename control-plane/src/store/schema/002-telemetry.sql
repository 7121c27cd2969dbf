-- Telemetry. A sample is one value of one key at one moment; the same one twice is one.
CREATE TABLE sample (
    device TEXT NOT NULL,
    key    TEXT NOT NULL,
    ts     INTEGER NOT NULL,                 -- milliseconds since 1970
    value  TEXT NOT NULL,                    -- JSON
    PRIMARY KEY (device, key, ts)
) STRICT, WITHOUT ROWID;

-- Records that carried an id, so that each counts once.
CREATE TABLE record (
    device TEXT NOT NULL,
    log    TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    PRIMARY KEY (device, log, seq)
) STRICT, WITHOUT ROWID;
