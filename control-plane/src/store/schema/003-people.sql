-- Accounts, their tokens, and the audit log. Owned by people/.
CREATE TABLE account (
    name     TEXT PRIMARY KEY,            -- 1 to 64 of a-z0-9._-
    role     TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'viewer')),
    password TEXT NOT NULL,               -- argon2id, as a PHC string
    created  INTEGER NOT NULL,            -- seconds since 1970, as all times here
    changed  INTEGER NOT NULL             -- when the password or role last did
) STRICT, WITHOUT ROWID;

-- What a person or a pipeline shows: made by a login (session), or by hand (api).
CREATE TABLE access_token (
    id        TEXT PRIMARY KEY,           -- public name
    kind      TEXT NOT NULL CHECK (kind IN ('session', 'api')),
    digest    BLOB NOT NULL UNIQUE,       -- SHA-256 of the token
    account   TEXT NOT NULL REFERENCES account (name) ON DELETE CASCADE,
    note      TEXT NOT NULL DEFAULT '',
    scopes    TEXT NOT NULL,              -- with spaces between; what the role lacks counts for nothing
    created   INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    last_used INTEGER                     -- to the minute
) STRICT, WITHOUT ROWID;
CREATE INDEX access_token_account ON access_token (account, id);
CREATE INDEX access_token_expires ON access_token (expires);

-- Every change that a person makes, in the change's own transaction.
CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time    INTEGER NOT NULL,
    who     TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL DEFAULT '{}'    -- JSON, never a secret
) STRICT;
CREATE INDEX audit_subject ON audit (subject, id);
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
