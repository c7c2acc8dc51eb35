use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use router::Reach;
use rusqlite::Connection;
use stdx::{Cost, Priority};
use tempfile::TempDir;

use crate::{
    AuditFilter, AuditPage, AuditRow, AuditSource, Kept, KeyLimits, NewKey, Retention, Scope,
    Scopes, Session, Store, StoreError, Usage, Used, Writer, day_of, days_of_month, hash,
};

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn new_key(name: &str) -> NewKey {
    NewKey {
        name: name.into(),
        scopes: [Scope::Chat, Scope::Models].into_iter().collect(),
        privacy: Some(Reach::Lan),
        models: vec!["tiny*".into(), "box:*".into()],
        limits: KeyLimits {
            requests_per_minute: Some(60),
            tokens_per_minute: Some(1000),
            tokens_per_day: Some(1 << 40),
            cost_per_month: Some(Cost(5)),
            concurrency: Some(2),
        },
        priority: Priority::High,
        expires_s: Some(4_000_000_000),
    }
}

fn row(at_ms: u64, id: &str) -> AuditRow {
    AuditRow {
        at_ms,
        request_id: id.into(),
        ..AuditRow::default()
    }
}

fn rows(session: &Session, filter: &AuditFilter) -> Vec<AuditRow> {
    let mut rows = Vec::new();
    let taken = session.audit(filter, |row| {
        rows.push(row);
        Ok::<_, ()>(())
    });
    taken.unwrap().unwrap();
    rows
}

fn writer(store: &Store) -> Writer {
    store.writer(Retention::default()).unwrap()
}

#[test]
fn keys_are_kept_as_hashes_and_given_once() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let mut session = store.connect().unwrap();
    let generation = session.keys_generation().unwrap();
    let (secret, key) = session.add_key(&new_key("phone")).unwrap();
    assert_eq!(secret.expose().len(), 3 + 43);
    assert_eq!(key.hash, hash(secret.expose()));
    assert!(secret.expose().starts_with(&key.shown));
    assert_eq!(session.keys().unwrap(), std::slice::from_ref(&key));
    assert!(session.keys_generation().unwrap() > generation);
    let taken = session.add_key(&new_key("phone")).unwrap_err();
    assert!(matches!(taken, StoreError::NameTaken { .. }), "{taken}");
    let (other, _) = session.add_key(&new_key("laptop")).unwrap();
    assert_ne!(other, secret);

    session.revoke_key("phone").unwrap();
    assert!(session.keys().unwrap()[0].revoked_s.is_some());
    let gone = session.revoke_key("phone").unwrap_err();
    assert!(matches!(gone, StoreError::NoSuchKey { .. }), "{gone}");
    // A revoked name is free again.
    session.add_key(&new_key("phone")).unwrap();
    drop(session);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let whole = secret.expose().as_bytes();
        assert!(!bytes.windows(whole.len()).any(|part| part == whole));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn scopes_have_words_and_unknown_ones_allow_nothing() {
    assert_eq!(
        Scopes::ALL.to_string(),
        "chat,embeddings,models,metrics,admin"
    );
    let some: Scopes = [Scope::Admin, Scope::Chat].into_iter().collect();
    assert_eq!(some.to_string(), "chat,admin");
    assert!(some.has(Scope::Admin) && !some.has(Scope::Metrics));
    for scope in Scope::ALL {
        assert_eq!(Scope::from_word(scope.word()), Some(scope));
        assert!(Scopes::ALL.has(scope) && !Scopes::default().has(scope));
    }
}

#[test]
fn rows_are_read_back_as_they_were_written() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let whole = AuditRow {
        at_ms: 1_700_000_000_123,
        request_id: "req-1".into(),
        key_id: Some("key_1".into()),
        key_name: Some("phone".into()),
        route: "/v1/chat/completions".into(),
        model: Some("auto".into()),
        decision: Some(r#"{"route":"auto"}"#.into()),
        privacy: Some("lan_only".into()),
        privacy_by: Some("the key `phone`".into()),
        served_by: Some("box:m".into()),
        attempts: 2,
        trail: Some("ill:m=upstream_failed".into()),
        status: 200,
        error: Some("upstream_failed".into()),
        prompt_tokens: 12,
        cached_tokens: 4,
        completion_tokens: 5,
        ttft_ms: Some(1.5),
        duration_ms: 20.25,
        cost: Cost(150_000_000),
        prompt: Some("Hi".into()),
        answer: Some("Hello".into()),
    };
    let writer = writer(&store);
    let sent = whole.clone();
    assert!(writer.audit(0, sent));
    assert!(writer.audit(0, row(1_700_000_000_200, "req-2")));
    writer.flush();
    let session = store.connect().unwrap();
    let all = rows(&session, &AuditFilter::default());
    assert_eq!(all[0], whole);
    assert_eq!(all[1].request_id, "req-2");
    let line: serde_json::Value = serde_json::from_str(&whole.line()).unwrap();
    assert_eq!(line["decision"]["route"], "auto");
    assert_eq!(line["cost"], 0.15);
    let bare: serde_json::Value = serde_json::from_str(&all[1].line()).unwrap();
    assert!(bare.get("prompt").is_none() && bare["decision"].is_null());

    let ids = |filter: AuditFilter| -> Vec<String> {
        let rows = rows(&session, &filter).into_iter();
        rows.map(|row| row.request_id).collect()
    };
    let since_ms = 1_700_000_000_200;
    let later = AuditFilter {
        since_ms,
        ..AuditFilter::default()
    };
    assert_eq!(ids(later), ["req-2"]);
    let of_key = AuditFilter {
        key_name: Some("phone".into()),
        ..AuditFilter::default()
    };
    assert_eq!(ids(of_key), ["req-1"]);
}

#[test]
fn a_page_of_the_log_has_the_latest_rows_and_a_limit_of_bytes() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let writer = writer(&store);
    for at_ms in 1..=5 {
        assert!(writer.audit(0, row(at_ms, "r")));
    }
    writer.flush();
    let session = store.connect().unwrap();
    let n_bytes = row(1, "r").line().len() + 1;
    let page = |rows_max, bytes_max, before| {
        let page = AuditPage {
            rows_max,
            bytes_max,
            before,
        };
        let page = session.audit_page(&AuditFilter::default(), page).unwrap();
        let times: Vec<u64> = page
            .lines
            .iter()
            .map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                line["at_ms"].as_u64().unwrap()
            })
            .collect();
        (times, page.before)
    };
    assert_eq!(page(2, usize::MAX, None), (vec![4, 5], None));
    assert_eq!(page(9, n_bytes * 5, None), (vec![1, 2, 3, 4, 5], None));
    let (latest, before) = page(9, n_bytes * 3, None);
    assert_eq!(latest, [3, 4, 5]);
    assert_eq!(page(9, n_bytes * 3, before), (vec![1, 2], None));
    // One is given, however long it is.
    let (one, before) = page(9, 1, None);
    assert_eq!((one, before.is_some()), (vec![5], true));
}

#[test]
fn old_rows_and_rows_over_the_limit_are_deleted() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let now_ms = crate::keys::now_s() * 1000;
    let write = |retention, ids: &[(u64, &'static str)]| {
        let writer = store.writer(retention).unwrap();
        for (at_ms, id) in ids.iter().copied() {
            assert!(writer.audit(0, row(at_ms, id)));
        }
        writer.flush();
    };
    let ids = || -> Vec<String> {
        let rows = rows(&store.connect().unwrap(), &AuditFilter::default());
        rows.into_iter().map(|row| row.request_id).collect()
    };
    write(
        Retention::default(),
        &[
            (now_ms - 3 * 86_400_000, "old"),
            (now_ms, "a"),
            (now_ms, "b"),
            (now_ms, "c"),
        ],
    );
    assert_eq!(ids(), ["old", "a", "b", "c"]);
    let days = Retention {
        days: 2,
        rows_max: 100,
    };
    write(days, &[]);
    assert_eq!(ids(), ["a", "b", "c"]);
    let two = Retention {
        days: 2,
        rows_max: 2,
    };
    write(two, &[]);
    assert_eq!(ids(), ["b", "c"]);
}

#[test]
fn usage_adds_up_by_day_and_month() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    // 2024-02-29.
    let day = day_of(1_709_164_800);
    let use_on = |writer: &Writer, key: &str, day, tokens, cost| {
        let key_id = key.to_owned();
        let cost = Cost(cost);
        assert!(writer.usage(Usage {
            key_id,
            day,
            tokens,
            cost
        }));
    };
    {
        let writer = writer(&store);
        use_on(&writer, "a", day, 10, 5);
        use_on(&writer, "a", day, 10, 5);
        use_on(&writer, "a", day - 28, 100, 50);
        use_on(&writer, "a", day - 29, 1000, 500);
        use_on(&writer, "a", day + 1, 1000, 500);
        use_on(&writer, "b", day - 1, 7, 3);
    }
    // Dropping the last handle writes what was given.
    let spent = store.connect().unwrap().spent(day).unwrap();
    assert_eq!(
        (spent["a"].tokens_today, spent["a"].cost_month),
        (20, Cost(60))
    );
    assert_eq!(
        (spent["b"].tokens_today, spent["b"].cost_month),
        (0, Cost(3))
    );
}

#[test]
fn months_have_their_days() {
    let mut first = 0;
    for year in 1970..2110 {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let february = 28 + u64::from(is_leap);
        for n_days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            let month = first..=first + n_days - 1;
            for day in [first, first + 1, first + n_days - 1] {
                assert_eq!(days_of_month(day), month, "{year}");
            }
            first += n_days;
        }
    }
}

#[test]
fn responses_come_back_in_the_order_of_their_use() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let kept = |id: &str| Kept {
        id: id.into(),
        previous: Some("p".into()),
        input: b"[]".to_vec(),
        response: b"{}".to_vec(),
        reach: Reach::Device,
        owner: Some("key_1".into()),
    };
    let used = |id: &str, order| Used {
        id: id.into(),
        at_s: 100,
        order,
    };
    let writer = writer(&store);
    for (order, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(writer.put_response(Arc::new(kept(id)), used(id, order as u64)));
    }
    assert!(writer.used_responses(vec![used("a", 9)]));
    assert!(writer.delete_response("b"));
    writer.flush();
    let all = store.connect().unwrap().responses().unwrap();
    assert_eq!(all, [(kept("c"), 100), (kept("a"), 100)]);
}

#[test]
fn what_was_deleted_is_in_no_file_afterwards() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let canary = "a canary that sings ";
    let holds = || {
        std::fs::read_dir(folder.path()).unwrap().any(|file| {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            let mut windows = bytes.windows(canary.len());
            windows.any(|window| window == canary.as_bytes())
        })
    };
    // More than a page, so that pages of its own are freed with it.
    let kept = Kept {
        id: "a".into(),
        previous: None,
        input: canary.repeat(2000).into_bytes(),
        response: b"{}".to_vec(),
        reach: Reach::Device,
        owner: None,
    };
    let used = Used {
        id: "a".into(),
        at_s: 100,
        order: 1,
    };
    {
        let writer = writer(&store);
        assert!(writer.put_response(Arc::new(kept), used));
    }
    assert!(holds());
    {
        let writer = writer(&store);
        assert!(writer.delete_response("a"));
    }
    assert!(!holds());
}

#[test]
fn what_cannot_be_used_is_named_with_a_way_out() {
    let folder = folder();
    let path = folder.path().join(crate::FILE_NAME);
    std::fs::write(
        &path,
        "this is a letter, not a database, and long enough to be one",
    )
    .unwrap();
    let told = Store::open(folder.path()).unwrap_err().to_string();
    assert!(
        told.contains("sextant.db") && told.contains("move it away"),
        "{told}"
    );
    let looked = Store::inspect(folder.path()).unwrap_err().to_string();
    assert_eq!(looked, told);

    std::fs::remove_file(&path).unwrap();
    Store::open(folder.path()).unwrap();
    Store::inspect(folder.path()).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let told = Store::open(folder.path()).unwrap_err().to_string();
    assert!(
        told.contains("version 99") && told.contains("up to 3"),
        "{told}"
    );
    let looked = Store::inspect(folder.path()).unwrap_err().to_string();
    assert_eq!(looked, told);

    let other = tempfile::tempdir().unwrap();
    let connection = Connection::open(other.path().join(crate::FILE_NAME)).unwrap();
    connection.execute_batch("CREATE TABLE theirs (x)").unwrap();
    let told = Store::open(other.path()).unwrap_err().to_string();
    assert!(told.contains("another program"), "{told}");
    let looked = Store::inspect(other.path()).unwrap_err().to_string();
    assert_eq!(looked, told);
    let nowhere = tempfile::tempdir().unwrap();
    Store::inspect(nowhere.path()).unwrap();
    assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0);

    std::fs::write(other.path().join("file"), "").unwrap();
    let told = Store::open(&other.path().join("file")).unwrap_err();
    assert!(matches!(told, StoreError::Unreachable { .. }), "{told}");
}

#[test]
fn a_database_cut_short_is_corrupt_and_a_locked_one_is_locked() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let mut holder = Connection::open(store.path()).unwrap();
    let lock = holder
        .transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)
        .unwrap();
    let mut session = store.connect().unwrap();
    session
        .connection
        .busy_timeout(std::time::Duration::ZERO)
        .unwrap();
    let told = session.add_key(&new_key("a")).unwrap_err();
    assert!(matches!(told, StoreError::Locked { .. }), "{told}");
    drop(lock);
    session.add_key(&new_key("a")).unwrap();
    drop((session, holder));

    let bytes = std::fs::read(store.path()).unwrap();
    std::fs::write(store.path(), &bytes[..bytes.len() / 2]).unwrap();
    let told = Store::open(folder.path()).and_then(|store| store.connect()?.keys());
    let told = told.unwrap_err();
    assert!(matches!(told, StoreError::Corrupt { .. }), "{told}");
}

/// Waits inside its row until the sender says a word, or is gone.
struct Held(std::sync::mpsc::Receiver<()>);

impl AuditSource for Held {
    fn row(&self) -> AuditRow<&str> {
        let _ = self.0.recv();
        AuditRow {
            at_ms: 1,
            request_id: "first",
            ..AuditRow::default()
        }
    }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let folder = folder();
    let store = Store::open(folder.path()).unwrap();
    let writer = writer(&store);
    // The writer is kept busy inside the first row until the queue has been filled.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    assert!(writer.audit(0, Held(wait)));
    let mut n_taken = 1;
    while writer.audit(0, row(1, "more")) {
        n_taken += 1;
    }
    assert_eq!(writer.dropped(), 1);
    assert!(n_taken >= crate::QUEUE_MAX as u64);
    go_on.send(()).unwrap();
    writer.flush();
    let all = rows(&store.connect().unwrap(), &AuditFilter::default());
    assert_eq!(all.len() as u64, n_taken);
    assert!(!writer.audit(crate::QUEUE_BYTES_MAX + 1, row(1, "huge")));
    assert!(writer.audit(crate::QUEUE_BYTES_MAX, row(1, "large")));
}

/// The name of the test below that plays the process that is killed.
const CHILD: &str = "tests::the_process_that_is_killed";
const CHILD_FOLDER: &str = "STORE_TEST_FOLDER";

/// Does nothing unless the next test starts it.
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else {
        return;
    };
    let store = Store::open(folder.as_ref()).unwrap();
    let writer = writer(&store);
    for number in 0_u64.. {
        writer.audit(0, row(number, "x"));
        if number % 1000 == 0 {
            writer.flush();
            println!("\nflushed {number}");
        }
    }
}

#[test]
fn a_killed_process_leaves_a_whole_file_with_all_that_was_flushed() {
    let folder = folder();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let flushed = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("flushed ")?.parse::<u64>().ok())
        .find(|number| *number >= 5000)
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
    let all = rows(&session, &AuditFilter::default());
    assert!(all.len() as u64 > flushed);
    for (number, row) in all.iter().enumerate() {
        assert_eq!(row.at_ms, number as u64);
    }
}
