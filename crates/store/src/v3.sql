-- A key's chats are listed without a look at those of others.
DROP INDEX chats_changed;
CREATE INDEX chats_of_owner ON chats (owner, changed_ms);

-- The index of words knows whose they are, and how words begin: neither what others wrote nor a
-- word that is only begun makes a search slow. The texts themselves stay in `messages`; one that
-- is being written is not in the index yet.
DROP TABLE message_words;
CREATE VIEW messages_ended AS
    SELECT m.n AS n, m.text AS text, 'o' || hex(c.owner) AS owner
    FROM messages m JOIN chats c ON c.id = m.chat WHERE m.state <> 'open';
CREATE VIRTUAL TABLE message_words USING fts5
    (text, owner, content = 'messages_ended', content_rowid = 'n', prefix = '1 2 3');
INSERT INTO message_words (message_words, rank) VALUES ('secure-delete', 1);
INSERT INTO message_words (message_words) VALUES ('rebuild');
