use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;

use tempfile::TempDir;

use super::*;
use crate::{ChatWriter, Store};

fn write(writer: &ChatWriter, writes: Vec<ChatWrite>) -> Result<(), StoreError> {
    let (sender, receiver) = sync_channel(1);
    assert!(writer.write(
        writes,
        Box::new(move |outcome| sender.send(outcome).unwrap())
    ));
    receiver.recv().unwrap()
}

fn a_chat(id: &str, owner: Option<&str>, changed_ms: u64) -> Chat {
    Chat {
        id: id.into(),
        owner: owner.map(str::to_owned),
        title: format!("About {id}"),
        model: Some("tiny".into()),
        leaf: None,
        created_ms: 1,
        changed_ms,
    }
}

fn a_message(chat: &str, id: &str, text: &str) -> ChatMessage {
    ChatMessage {
        id: id.into(),
        chat: chat.into(),
        parent: None,
        role: ChatRole::User,
        text: text.into(),
        reasoning: String::new(),
        state: MessageState::Done,
        reach: Reach::Cloud,
        detail: None,
        created_ms: 5,
    }
}

fn search(session: &Session, owner: Option<&str>, words: &str) -> Vec<String> {
    let filter = ChatFilter {
        owner: owner.map(str::to_owned),
        words: words.into(),
        before_ms: None,
        limit: 50,
    };
    let rows = session.chats(&filter).unwrap();
    rows.into_iter().map(|row| row.chat.id).collect()
}

#[test]
fn chats_are_read_back_as_they_were_written_and_only_by_their_owner() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let writer = store.chat_writer().unwrap();
    let session = store.connect().unwrap();
    let mut chat = a_chat("c1", Some("key_1"), 10);
    let answer = ChatMessage {
        parent: Some("m1".into()),
        role: ChatRole::Assistant,
        reasoning: "hm".into(),
        state: MessageState::Open,
        reach: Reach::Lan,
        ..a_message("c1", "m2", "")
    };
    let writes = vec![
        ChatWrite::Chat(chat.clone()),
        ChatWrite::Message(Box::new(a_message("c1", "m1", "Hello"))),
        ChatWrite::Message(Box::new(answer.clone())),
    ];
    write(&writer, writes).unwrap();
    assert_eq!(session.chat("c1", None).unwrap(), None);
    assert_eq!(session.chat("c1", Some("key_2")).unwrap(), None);
    assert_eq!(
        session.chat("c1", Some("key_1")).unwrap(),
        Some(chat.clone())
    );
    let ended = ChatMessage {
        text: "Hello to you".into(),
        state: MessageState::Stopped,
        detail: Some("{}".into()),
        ..answer
    };
    chat.leaf = Some("m2".into());
    chat.title = "Greeting".into();
    let writes = vec![
        ChatWrite::End(Box::new(ended.clone())),
        ChatWrite::Chat(chat.clone()),
    ];
    write(&writer, writes).unwrap();
    assert_eq!(session.chat("c1", Some("key_1")).unwrap(), Some(chat));
    let messages = session.chat_messages("c1").unwrap();
    assert_eq!(messages, [a_message("c1", "m1", "Hello"), ended]);
    // The same id again is refused, and nothing of that change is written.
    let again = vec![
        ChatWrite::Chat(a_chat("c2", None, 11)),
        ChatWrite::Message(Box::new(a_message("c1", "m1", "other"))),
    ];
    assert!(write(&writer, again).is_err());
    assert_eq!(session.chat("c2", None).unwrap(), None);
}

#[test]
fn chats_are_found_by_title_and_by_words_and_a_deleted_one_leaves_no_word() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let writer = store.chat_writer().unwrap();
    let session = store.connect().unwrap();
    for (id, at, text) in [
        ("c1", 10, "the quick brown fox"),
        ("c2", 20, "a <b>Quick</b> \"answer\" OR none"),
        ("c3", 30, "100% of 1_000"),
    ] {
        let writes = vec![
            ChatWrite::Chat(a_chat(id, None, at)),
            ChatWrite::Message(Box::new(a_message(id, &format!("m-{id}"), text))),
        ];
        write(&writer, writes).unwrap();
    }
    let found = |words: &str| search(&session, None, words);
    assert_eq!(found(""), ["c3", "c2", "c1"]);
    assert_eq!(found("quick"), ["c2", "c1"]);
    assert_eq!(
        found("quick fo"),
        ["c1"],
        "the last word may be a beginning"
    );
    assert_eq!(found("About c1"), ["c1"], "titles are searched too");
    // Neither operators nor wildcards nor quotes mean anything.
    assert_eq!(found("quick OR"), ["c2"]);
    assert_eq!(found("\"answer"), ["c2"]);
    assert_eq!(found("%"), Vec::<String>::new());
    assert_eq!(found("_000 NEAR("), Vec::<String>::new());
    assert_eq!(
        search(&session, Some("key_1"), "quick"),
        Vec::<String>::new()
    );
    let filter = ChatFilter {
        words: "brown".into(),
        limit: 1,
        ..ChatFilter::default()
    };
    let excerpt = session.chats(&filter).unwrap().remove(0).excerpt;
    assert_eq!(excerpt.as_deref(), Some("the quick brown fox"));
    write(&writer, vec![ChatWrite::Delete { id: "c1".into() }]).unwrap();
    assert_eq!(found("brown"), Vec::<String>::new());
    let n_words: i64 = session
        .connection
        .query_row(
            "SELECT count(*) FROM message_words WHERE message_words MATCH 'brown'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(n_words, 0);
    assert!(session.chat_messages("c1").unwrap().is_empty());
}

#[test]
fn a_chat_with_many_hits_hides_no_other_and_keys_search_their_own() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let writer = store.chat_writer().unwrap();
    let session = store.connect().unwrap();
    let mut writes = vec![
        ChatWrite::Chat(a_chat("rare", None, 1)),
        ChatWrite::Message(Box::new(a_message("rare", "m", "a word"))),
        ChatWrite::Chat(a_chat("much", None, 2)),
    ];
    for at in 0..1000 {
        let message = a_message("much", &format!("m{at}"), "a word again");
        writes.push(ChatWrite::Message(Box::new(message)));
    }
    for key in ["key_1", "key_2"] {
        let id = format!("of-{key}");
        writes.push(ChatWrite::Chat(a_chat(&id, Some(key), 3)));
        let message = a_message(&id, &format!("m-{key}"), "a word of mine");
        writes.push(ChatWrite::Message(Box::new(message)));
    }
    write(&writer, writes).unwrap();
    assert_eq!(search(&session, None, "word"), ["much", "rare"]);
    assert_eq!(search(&session, Some("key_1"), "wo"), ["of-key_1"]);
    assert_eq!(search(&session, Some("key_2"), "a word"), ["of-key_2"]);
    // The name by which the index knows an owner is no word of theirs.
    for name in ["o6B65795F31", "key_1"] {
        assert_eq!(search(&session, None, name), Vec::<String>::new(), "{name}");
    }
    write(&writer, vec![ChatWrite::Delete { id: "much".into() }]).unwrap();
    assert_eq!(search(&session, None, "word"), ["rare"]);
    let check = "INSERT INTO message_words (message_words, rank) VALUES ('integrity-check', 1)";
    session.connection.execute(check, ()).unwrap();
}

#[test]
fn an_old_database_gets_the_new_tables_and_its_words_are_found() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(crate::FILE_NAME);
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../v1.sql")).unwrap();
    old.execute_batch(include_str!("../v2.sql")).unwrap();
    old.execute_batch(
        "INSERT INTO chats VALUES ('c1', NULL, 'Old', NULL, NULL, 1, 2), \
             ('c2', 'key_1', 'Theirs', NULL, NULL, 1, 3); \
         INSERT INTO messages VALUES \
             (1, 'm1', 'c1', NULL, 'user', 'an old word', '', 'done', 'any', NULL, 1), \
             (2, 'm2', 'c1', 'm1', 'assistant', 'half a word', '', 'open', 'any', NULL, 1), \
             (3, 'm3', 'c2', NULL, 'user', 'a word', '', 'done', 'any', NULL, 1); \
         INSERT INTO message_words (rowid, text) VALUES (1, 'an old word'), (3, 'a word');",
    )
    .unwrap();
    old.pragma_update(None, "user_version", 2).unwrap();
    old.pragma_update(None, "application_id", 0x5378_746e)
        .unwrap();
    drop(old);
    let store = Store::open(folder.path()).unwrap();
    let session = store.connect().unwrap();
    assert_eq!(search(&session, None, "word"), ["c1"]);
    assert_eq!(search(&session, Some("key_1"), "word"), ["c2"]);
    assert_eq!(search(&session, None, "half"), Vec::<String>::new());
    // What was open is cut off by the next process that writes, and found from then on.
    drop(store.chat_writer().unwrap());
    assert_eq!(search(&session, None, "half"), ["c1"]);
    // A second look changes nothing.
    Store::open(folder.path()).unwrap();
}

const CHILD: &str = "chats::tests::the_process_that_is_killed";
const CHILD_FOLDER: &str = "STORE_CHATS_TEST_FOLDER";
/// The text of the open message grows by this with each change.
const PIECE: &str = "word ";

/// Does nothing unless the next test starts it.
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else {
        return;
    };
    let store = Store::open(folder.as_ref()).unwrap();
    let writer = store.chat_writer().unwrap();
    let open = ChatMessage {
        role: ChatRole::Assistant,
        state: MessageState::Open,
        ..a_message("c1", "m2", "")
    };
    let writes = vec![
        ChatWrite::Chat(a_chat("c1", None, 1)),
        ChatWrite::Message(Box::new(a_message("c1", "m1", "Say words"))),
        ChatWrite::Message(Box::new(open)),
    ];
    write(&writer, writes).unwrap();
    for number in 1_usize.. {
        let progress = ChatWrite::Progress {
            id: "m2".into(),
            text: PIECE.repeat(number),
            reasoning: String::new(),
        };
        write(&writer, vec![progress]).unwrap();
        println!("\nwritten {number}");
    }
}

#[test]
fn a_kill_loses_at_most_the_tail_that_was_not_written() {
    let folder = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let written = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("written ")?.parse::<usize>().ok())
        .find(|number| *number >= 200)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let session = store.connect().unwrap();
    let check: String = session
        .connection
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    assert_eq!(
        session.chat_messages("c1").unwrap()[1].state,
        MessageState::Open
    );
    // The next process that writes says that nobody goes on with it.
    drop(store.chat_writer().unwrap());
    let messages = session.chat_messages("c1").unwrap();
    assert_eq!(messages[0].text, "Say words");
    assert_eq!(messages[1].state, MessageState::CutOff);
    assert!(messages[1].text.len() >= written * PIECE.len());
    assert_eq!(
        search(&session, None, "word"),
        ["c1"],
        "what is left is found"
    );
}
