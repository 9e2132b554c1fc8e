-- Accounts and what one node needs of each: credentials, roster, requests, block list, offline
-- messages and the generic map.

-- One row for each account, and one (localpart '') for a domain that owns entries of the map.
-- AUTOINCREMENT: what other files say about an owner's number must never come to mean another.
CREATE TABLE owner (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    domain TEXT NOT NULL,
    localpart TEXT NOT NULL,
    is_enabled INTEGER NOT NULL DEFAULT 1,
    created_ms INTEGER NOT NULL,
    roster_version INTEGER NOT NULL DEFAULT 0,
    last_seen_ms INTEGER NOT NULL DEFAULT 0,
    last_status TEXT NOT NULL DEFAULT '',
    UNIQUE (domain, localpart)
) STRICT;

-- RFC 5802 §3: what SCRAM stores; never a password.
CREATE TABLE scram_key (
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    hash TEXT NOT NULL,
    iterations INTEGER NOT NULL,
    salt BLOB NOT NULL,
    stored_key BLOB NOT NULL,
    server_key BLOB NOT NULL,
    PRIMARY KEY (owner, hash)
) STRICT, WITHOUT ROWID;

-- state: 1 to, 2 from, 4 pending out, 8 approved. group_names: a JSON array of texts.
CREATE TABLE roster (
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    jid TEXT NOT NULL,
    name TEXT NOT NULL,
    group_names TEXT NOT NULL,
    state INTEGER NOT NULL,
    PRIMARY KEY (owner, jid)
) STRICT, WITHOUT ROWID;

CREATE TABLE request (
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    jid TEXT NOT NULL,
    stanza BLOB NOT NULL,
    PRIMARY KEY (owner, jid)
) STRICT, WITHOUT ROWID;

CREATE TABLE blocked (
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    jid TEXT NOT NULL,
    PRIMARY KEY (owner, jid)
) STRICT, WITHOUT ROWID;

-- Rows lie in the order of arrival, so that one commit for many owners writes few pages; the
-- index has (owner, id), since an index entry ends with the row's number.
CREATE TABLE offline (
    id INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    at_ms INTEGER NOT NULL,
    stanza BLOB NOT NULL
) STRICT;
CREATE INDEX offline_by_owner ON offline (owner);

-- kind: 1 private XML, 2 vCard, 3 a feature's own. With row numbers, for values may be large.
CREATE TABLE map (
    owner INTEGER NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    kind INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (owner, kind, key)
) STRICT;

-- Numbers that are handed out in blocks and never twice.
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counter (name, next) VALUES ('offline', 1);
