-- The workbench's chats. What a key has begun is that key's alone (`owner`).
CREATE TABLE chats (
    id TEXT PRIMARY KEY,
    owner TEXT,
    title TEXT NOT NULL,
    model TEXT,
    -- The last message of the branch that was looked at last.
    leaf TEXT,
    created_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX chats_changed ON chats (changed_ms);

-- A chat is a tree: messages with the same parent are versions of one another.
CREATE TABLE messages (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    chat TEXT NOT NULL,
    parent TEXT,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    state TEXT NOT NULL,
    reach TEXT NOT NULL,
    -- JSON: who answered, what it took, what went wrong.
    detail TEXT,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_of_chat ON messages (chat, n);
CREATE INDEX messages_open ON messages (state) WHERE state = 'open';

-- Texts that have ended, by their words; the texts themselves stay in `messages`. What is deleted
-- leaves no word behind.
CREATE VIRTUAL TABLE message_words USING fts5 (text, content = 'messages', content_rowid = 'n');
INSERT INTO message_words (message_words, rank) VALUES ('secure-delete', 1);
