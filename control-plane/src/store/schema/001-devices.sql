-- Devices, who they are, and what is known of them. Owned by registry/ and ca/.
CREATE TABLE device (
    id          TEXT PRIMARY KEY,            -- 1 to 64 of a-z0-9-
    name        TEXT NOT NULL,
    grp         TEXT NOT NULL DEFAULT 'default',
    created     INTEGER NOT NULL,            -- seconds since 1970, as all times here
    facts       TEXT NOT NULL DEFAULT '{}',  -- JSON from enrolment
    public_key  BLOB UNIQUE,                 -- SubjectPublicKeyInfo (DER) that it enrolled with
    enrolled_by TEXT,                        -- SHA-256 of the token, so that a lost answer can be given again
    revoked     INTEGER,                     -- since when
    last_seen   INTEGER,
    online      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX device_group ON device (grp, id);

CREATE TABLE device_tag (
    device TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    tag    TEXT NOT NULL,
    PRIMARY KEY (device, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX device_tag_tag ON device_tag (tag, device);

CREATE TABLE attribute (
    device  TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    scope   TEXT NOT NULL CHECK (scope IN ('client', 'shared', 'server')),
    key     TEXT NOT NULL,
    value   TEXT NOT NULL,                   -- JSON
    updated INTEGER NOT NULL,
    PRIMARY KEY (device, scope, key)
) STRICT, WITHOUT ROWID;

-- What a device may connect with beside its own certificate's key.
CREATE TABLE credential (
    kind    TEXT NOT NULL CHECK (kind IN ('access-token', 'basic', 'certificate')),
    lookup  TEXT NOT NULL,                   -- SHA-256 of the token, the client id and user, or the certificate's SHA-256
    secret  TEXT,                            -- argon2 of a password
    device  TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    PRIMARY KEY (kind, lookup)
) STRICT, WITHOUT ROWID;

CREATE TABLE certificate (
    serial  TEXT PRIMARY KEY,                -- hex
    device  TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    issued  INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    revoked INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX certificate_device ON certificate (device);

CREATE TABLE enrolment_token (
    id       TEXT PRIMARY KEY,               -- public name
    digest   TEXT NOT NULL UNIQUE,           -- SHA-256 of the token
    grp      TEXT NOT NULL,
    tags     TEXT NOT NULL DEFAULT '[]',
    uses     INTEGER NOT NULL,               -- how many are left
    created  INTEGER NOT NULL,
    expires  INTEGER NOT NULL,
    note     TEXT NOT NULL DEFAULT ''
) STRICT;

-- ThingsBoard's provisioning profiles.
CREATE TABLE provision_profile (
    key    TEXT PRIMARY KEY,
    secret TEXT NOT NULL,                    -- SHA-256
    grp    TEXT NOT NULL
) STRICT;

-- Packages that ThingsBoard's clients fetch in chunks; the bytes lie in DATA/packages/<sha256>.
CREATE TABLE package (
    kind    TEXT NOT NULL CHECK (kind IN ('fw', 'sw')),
    title   TEXT NOT NULL,
    version TEXT NOT NULL,
    size    INTEGER NOT NULL,
    sha256  TEXT NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (kind, title, version)
) STRICT, WITHOUT ROWID;
