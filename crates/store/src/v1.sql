-- Keys; only their hashes. A revoked key stays, so that the audit log can be read.
CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE,
    shown TEXT NOT NULL,
    scopes TEXT NOT NULL,
    privacy TEXT,
    models TEXT NOT NULL,
    requests_per_minute INTEGER,
    tokens_per_minute INTEGER,
    tokens_per_day INTEGER,
    cost_per_month INTEGER,
    concurrency INTEGER,
    priority TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    expires_s INTEGER,
    revoked_s INTEGER
) STRICT;
CREATE UNIQUE INDEX keys_in_use ON keys (name) WHERE revoked_s IS NULL;

-- Counts the changes of `keys`: a server reads them again when this moves.
CREATE TABLE generation (id INTEGER PRIMARY KEY CHECK (id = 0), n INTEGER NOT NULL) STRICT;
INSERT INTO generation VALUES (0, 0);

-- What a key used on one day (of UTC, since 1970), in tokens and billionths.
CREATE TABLE usage (
    key_id TEXT NOT NULL,
    day INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    PRIMARY KEY (key_id, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    key_id TEXT,
    key_name TEXT,
    route TEXT NOT NULL,
    model TEXT,
    decision TEXT,
    privacy TEXT,
    privacy_by TEXT,
    served_by TEXT,
    attempts INTEGER NOT NULL,
    trail TEXT,
    status INTEGER NOT NULL,
    error TEXT,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    ttft_ms REAL,
    duration_ms REAL NOT NULL,
    cost INTEGER NOT NULL,
    prompt TEXT,
    answer TEXT
) STRICT;
CREATE INDEX audit_at ON audit (at_ms);

CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    owner TEXT,
    reach TEXT NOT NULL,
    input BLOB NOT NULL,
    response BLOB NOT NULL,
    used_s INTEGER NOT NULL,
    used INTEGER NOT NULL
) STRICT;
