-- Devices that were removed, as long as not all that they sent is gone. Owned by registry/.
CREATE TABLE removed (
    device TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
