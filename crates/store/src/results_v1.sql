-- Finished runs of `sextant bench`, and what was imported.
CREATE TABLE runs (
    n INTEGER PRIMARY KEY,
    -- The kind, and a hash of heading and records: the same measurement is here once.
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    -- Seconds since 1970; 0 where nobody wrote it down.
    began_s INTEGER NOT NULL,
    ended_s INTEGER NOT NULL,
    -- JSON: the words of the command line.
    command TEXT NOT NULL,
    -- `bench`, or the name of the file that it was imported from.
    source TEXT NOT NULL,
    -- The address of the endpoint that was measured.
    server TEXT,
    -- What has measured.
    program TEXT,
    -- The machine that has measured.
    cpu TEXT,
    cores INTEGER,
    kernel TEXT,
    memory_bytes INTEGER,
    board TEXT,
    -- Averages of a minute, before and after.
    load_before REAL,
    load_after REAL,
    -- JSON: the first line of a file of `--out`.
    heading TEXT NOT NULL,
    n_records INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX runs_of_kind ON runs (kind, n);

-- What was measured, as far as it was told.
CREATE TABLE run_models (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    name TEXT NOT NULL,
    path TEXT,
    bytes INTEGER,
    -- Of the file: its size and a hash of its ends.
    fingerprint TEXT,
    -- Of the engine.
    build TEXT,
    -- The machine that has computed.
    hardware TEXT,
    PRIMARY KEY (run, place)
) STRICT, WITHOUT ROWID;

-- JSON: each line of a file of `--out` after the first.
CREATE TABLE records (
    run INTEGER NOT NULL,
    place INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (run, place)
) STRICT, WITHOUT ROWID;
