-- Traffic that is paid for. Owned by traffic/. None of it goes when a device does: bills are made of it.

-- What nodes sent, each record once.
CREATE TABLE traffic_record (
    device   TEXT NOT NULL,
    chain    TEXT NOT NULL,
    number   INTEGER NOT NULL,
    slot     INTEGER NOT NULL,               -- number of five minutes since 1970, as all slots here
    digest   BLOB NOT NULL,
    previous BLOB,
    body     TEXT NOT NULL,                  -- with its signature, JSON
    PRIMARY KEY (device, chain, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX traffic_record_slot ON traffic_record (slot);

-- What can't be right, and was kept for people to look at.
CREATE TABLE traffic_fault (
    id      INTEGER PRIMARY KEY,
    device  TEXT NOT NULL,
    time    INTEGER NOT NULL,                -- milliseconds since 1970
    kind    TEXT NOT NULL,
    counted INTEGER NOT NULL,                -- whether its bytes are in the series all the same
    reason  TEXT NOT NULL,
    body    TEXT NOT NULL                    -- as it came
) STRICT;
CREATE INDEX traffic_fault_device ON traffic_fault (device, id);

-- Whose traffic a series is of, and what was counted.
CREATE TABLE traffic_series (
    id        INTEGER PRIMARY KEY,
    dimension TEXT NOT NULL,
    name      TEXT NOT NULL,
    kind      TEXT NOT NULL,
    UNIQUE (dimension, name, kind)
) STRICT;

-- Sums by slot, as they come.
CREATE TABLE traffic_slot (
    series    INTEGER NOT NULL,
    slot      INTEGER NOT NULL,
    rx        INTEGER NOT NULL,              -- bytes
    tx        INTEGER NOT NULL,
    meters    INTEGER NOT NULL,              -- how many reported
    estimated INTEGER NOT NULL,              -- how many of these shared a longer time out evenly
    PRIMARY KEY (series, slot)
) STRICT, WITHOUT ROWID;
CREATE INDEX traffic_slot_slot ON traffic_slot (slot);

-- The same of days that are long over, packed. A late record adds a row above, and the two are added up.
CREATE TABLE traffic_day (
    series INTEGER NOT NULL,
    day    INTEGER NOT NULL,                 -- since 1970, UTC
    slots  BLOB NOT NULL,
    PRIMARY KEY (series, day)
) STRICT, WITHOUT ROWID;
