-- Telemetry that is old enough lies packed by day, records are known by runs of their numbers, and other systems read a stream.
-- Owned by telemetry/ and stream/. What is in `sample` stays there until it is packed.

-- Numbers of records that were taken: all from the first to the last.
CREATE TABLE record_run (
    device TEXT NOT NULL,
    log    TEXT NOT NULL,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL,
    PRIMARY KEY (device, log, first)
) STRICT, WITHOUT ROWID;
INSERT INTO record_run (device, log, first, last)
    SELECT device, log, min(seq), max(seq)
    FROM (SELECT device, log, seq, seq - row_number() OVER (PARTITION BY device, log ORDER BY seq) AS run FROM record)
    GROUP BY device, log, run;
DROP TABLE record;

-- A day of one key's samples. Rows of `sample` at the same times count in their place.
CREATE TABLE piece (
    device TEXT NOT NULL,
    key    TEXT NOT NULL,
    day    INTEGER NOT NULL,                 -- days since 1970
    packed BLOB NOT NULL,                    -- telemetry/pack.rs
    PRIMARY KEY (device, key, day)
) STRICT;
CREATE INDEX piece_day ON piece (day);

-- A day of one key's windows: count, least, greatest, sum and last number of each.
CREATE TABLE window_day (
    device TEXT NOT NULL,
    key    TEXT NOT NULL,
    width  INTEGER NOT NULL,                 -- milliseconds
    day    INTEGER NOT NULL,
    packed BLOB NOT NULL,                    -- telemetry/windows.rs
    PRIMARY KEY (device, key, width, day)
) STRICT;
CREATE INDEX window_day_day ON window_day (width, day);

-- The stream: events of one device and kind that came together. Offsets are without a hole, and the newest block is never deleted,
-- so that they only grow.
CREATE TABLE stream_block (
    first  INTEGER PRIMARY KEY,              -- the offset of its first event
    events INTEGER NOT NULL,
    time   INTEGER NOT NULL,                 -- milliseconds since 1970
    kind   TEXT NOT NULL,
    device TEXT NOT NULL,
    total  INTEGER NOT NULL,                 -- bytes of all blocks up to this one, deleted ones too
    packed BLOB NOT NULL                     -- zstd over lines of JSON
) STRICT;

-- Who reads it.
CREATE TABLE stream_group (
    supplier   TEXT NOT NULL,                -- whose people it belongs to; empty: the operator's
    name       TEXT NOT NULL,
    filter     TEXT NOT NULL,                -- JSON
    next       INTEGER NOT NULL,             -- the first offset that no member was given
    lost       INTEGER NOT NULL DEFAULT 0,   -- events that were gone before the group came to them
    created    INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    PRIMARY KEY (supplier, name)
) STRICT, WITHOUT ROWID;

-- What a member was given and hasn't acknowledged.
CREATE TABLE stream_batch (
    supplier TEXT NOT NULL,
    grp      TEXT NOT NULL,
    member   TEXT NOT NULL,
    first    INTEGER NOT NULL,
    next     INTEGER NOT NULL,
    lost     INTEGER NOT NULL,               -- events of it that were gone when it was given last
    until    INTEGER NOT NULL,               -- from when on another member is given it, in milliseconds since 1970
    PRIMARY KEY (supplier, grp, member),
    FOREIGN KEY (supplier, grp) REFERENCES stream_group (supplier, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
