-- Archives (XEP-0313), inboxes and what the search index has yet to learn.
--
-- The tables of an archive do not cascade from `owner`: an archive of a million messages would be
-- deleted in one transaction while everybody's acknowledgements wait. They go in slices (`purge`).

-- One row for each conversation of an owner, which is also its entry in the inbox. last_id: its
-- last message, NULL where it has no entry. box: NULL for 'inbox'. stanza: the last message where
-- the archive has it no more.
CREATE TABLE conversation (
    id INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL,
    jid TEXT NOT NULL,
    last_id INTEGER,
    unread INTEGER NOT NULL DEFAULT 0,
    read_id INTEGER NOT NULL DEFAULT 0,
    box TEXT,
    muted_until_ms INTEGER NOT NULL DEFAULT 0,
    stanza BLOB,
    UNIQUE (owner, jid)
) STRICT;
CREATE INDEX conversation_filed ON conversation (owner) WHERE box = 'archive';

-- Stanzas, once for both sides of a conversation. key: the uid of the message, or a negative
-- number for one that only one archive has in this form.
CREATE TABLE message (
    key INTEGER PRIMARY KEY,
    stanza BLOB NOT NULL
) STRICT;

-- uid: NULL if it is the id. content: the key in `message`, NULL if it is the uid. dup: NULL for 0.
CREATE TABLE archive (
    owner INTEGER NOT NULL,
    id INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    uid INTEGER,
    content INTEGER,
    dup INTEGER,
    PRIMARY KEY (owner, id)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX archive_uid ON archive (owner, uid) WHERE uid IS NOT NULL;
CREATE UNIQUE INDEX archive_content ON archive (owner, content) WHERE content IS NOT NULL;

-- The same by conversation. mid: 47 bits of the hash of the message's id, NULL without.
CREATE TABLE thread (
    conversation INTEGER NOT NULL,
    id INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    mid INTEGER,
    PRIMARY KEY (conversation, id)
) STRICT, WITHOUT ROWID;

-- prefs: JSON, NULL for the server's. newest: no id up to here is given again.
CREATE TABLE archive_owner (
    owner INTEGER PRIMARY KEY NOT NULL REFERENCES owner (id) ON DELETE CASCADE,
    prefs TEXT,
    newest INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What is deleted for everybody who asks, and still to be taken out in slices: messages below an
-- id, of one conversation or (0) of all.
CREATE TABLE purge (
    owner INTEGER NOT NULL,
    conversation INTEGER NOT NULL,
    before INTEGER NOT NULL,
    PRIMARY KEY (owner, conversation)
) STRICT, WITHOUT ROWID;

-- Changes for the search index, one row a commit, until it has them on its own disk. The last row
-- stays, so that no number comes again (AUTOINCREMENT would write one more page a commit).
CREATE TABLE search_log (
    seq INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
) STRICT;

-- Tells the search index whose it is.
INSERT INTO counter (name, next) VALUES ('search', abs(random() / 2));

-- An offline message that the archive has: its place there.
ALTER TABLE offline ADD COLUMN archived INTEGER;
