-- Who published which release, and when. Owned by releases/. What is published is what lies in DATA/releases.
CREATE TABLE release (
    channel   TEXT NOT NULL,
    version   TEXT NOT NULL,
    digest    TEXT NOT NULL,              -- of the manifest's payload
    sequence  INTEGER NOT NULL,
    published INTEGER NOT NULL,
    who       TEXT NOT NULL,
    removed   INTEGER,                    -- the row stays: a version never gets another digest
    PRIMARY KEY (channel, version)
) STRICT, WITHOUT ROWID;
