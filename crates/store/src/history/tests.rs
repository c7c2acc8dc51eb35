use std::fs;

use rusqlite::Connection;
use tempfile::TempDir;

use super::file::{BROKEN, MARKS_MAX, TIERS};
use super::*;

/// A multiple of all steps.
const NOW: u64 = 1_790_000_100 / 900 * 900;

fn begun() -> (TempDir, History) {
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(folder.path(), 90);
    (folder, history)
}

fn sample(at_s: u64, said: f64) -> Sample {
    let mut sample = Sample::at(at_s);
    sample.add(Figure::SaidTps, Spread::of(said));
    sample.waits.add(Waits::step_of(said.max(0.001)), 1);
    sample
}

fn ask(from_s: u64, to_s: u64, points: u32) -> HistoryAsk {
    HistoryAsk {
        from_s,
        to_s,
        points,
    }
}

fn said(page: &HistoryPage) -> Vec<(u64, f32)> {
    let points = page.points.iter();
    points
        .map(|one| (one.at_s, one.get(Figure::SaidTps).unwrap().mean))
        .collect()
}

/// SQL on the file, past the history.
fn run(folder: &TempDir, sql: &str) {
    let path = folder.path().join(HISTORY_FILE_NAME);
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn count(folder: &TempDir, table: &str) -> u64 {
    let path = folder.path().join(HISTORY_FILE_NAME);
    let connection = Connection::open(path).unwrap();
    let sql = format!("SELECT count(*) FROM {table}");
    let count: i64 = connection.query_row(&sql, (), |row| row.get(0)).unwrap();
    count as u64
}

#[test]
fn what_waits_is_there_at_once_and_counts_once_when_it_is_written() {
    let (_folder, history) = begun();
    history.record(sample(NOW, 10.0));
    history.record(sample(NOW + 20, 30.0));
    let look = || history.read(&ask(NOW, NOW + 60, 100), NOW + 60);
    // Nothing is in the place of the second in between: a gap.
    let expected = [(NOW, 10.0), (NOW + 20, 30.0)];
    assert_eq!(said(&look()), expected);
    history.flush(NOW + 60, true);
    let page = look();
    assert_eq!((said(&page), page.step_s), (expected.to_vec(), 10));
    assert_eq!(page.points[0].waits.count(), 1);
    assert_eq!(page.trouble, None);
    // Another run reads the same.
    let again = History::new(_folder.path(), 90);
    assert_eq!(again.read(&ask(NOW, NOW + 60, 100), NOW + 60), page);
}

#[test]
fn samples_become_minutes_and_quarters_as_they_are_written() {
    let (folder, history) = begun();
    for n in 0..180 {
        history.record(sample(NOW + 10 * n, n as f64));
        if n % 7 == 0 {
            history.flush(NOW + 10 * n, true);
        }
    }
    history.flush(NOW + 1800, true);
    let counts = TIERS.map(|tier| count(&folder, tier.table));
    assert_eq!(counts, [180, 30, 2]);
    // From a time of which only the coarse rows would be left.
    let later = NOW + 30 * 86_400;
    let page = history.read(&ask(NOW, NOW + 1800, 100), later);
    assert_eq!(page.step_s, 900);
    assert_eq!(said(&page), [(NOW, 44.5), (NOW + 900, 134.5)]);
    let spread = page.points[1].get(Figure::SaidTps).unwrap();
    assert_eq!((spread.min, spread.max, spread.weight), (90.0, 179.0, 90.0));
    assert_eq!(page.points[1].waits.count(), 90);
    // The same from the fine ones, in points as long.
    let fresh = history.read(&ask(NOW, NOW + 1800, 3), NOW + 1800);
    assert_eq!(said(&fresh), said(&page));
}

#[test]
fn a_time_that_comes_again_takes_the_place_of_what_was_there() {
    let (_folder, history) = begun();
    for value in [5.0, 7.0] {
        history.record(sample(NOW, value));
        history.flush(NOW + 10, true);
    }
    let page = history.read(&ask(NOW, NOW + 900, 2), NOW + 10);
    assert_eq!(said(&page), [(NOW, 7.0)]);
}

#[test]
fn a_file_that_cannot_be_written_keeps_nobody_and_is_written_later() {
    let (folder, history) = begun();
    // Its place is taken by a folder.
    let path = folder.path().join(HISTORY_FILE_NAME);
    fs::create_dir(&path).unwrap();
    for n in 0..PENDING_MAX as u64 + 40 {
        history.record(sample(NOW + 10 * n, 1.0));
        history.mark(Mark::new(NOW * 1000, MarkKind::Load, ""));
        if n % 50 == 0 {
            history.flush(NOW, true);
        }
    }
    assert!(matches!(
        history.add_note(NOW * 1000, "lost"),
        Err(HistoryError::Unreachable { .. })
    ));
    let page = history.read(&ask(NOW, NOW + 5000, 2000), NOW);
    assert!(page.trouble.is_some());
    assert_eq!(
        (page.points.len(), page.points[0].at_s),
        (PENDING_MAX, NOW + 400)
    );
    assert_eq!(page.marks.len(), MARKS_PENDING_MAX);
    fs::remove_dir(&path).unwrap();
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), PENDING_MAX as u64);
    assert_eq!(count(&folder, "marks"), MARKS_PENDING_MAX as u64);
    let page = history.read(&ask(NOW, NOW + 5000, 2000), NOW);
    assert_eq!((page.points.len(), page.trouble), (PENDING_MAX, None));
}

#[test]
fn a_lock_of_another_program_is_waited_out() {
    let (folder, history) = begun();
    history.record(sample(NOW, 1.0));
    history.flush(NOW, true);
    let path = folder.path().join(HISTORY_FILE_NAME);
    let other = Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    history.record(sample(NOW + 10, 2.0));
    history.flush(NOW, true);
    // Reading is not locked, and has what waits.
    let look = || said(&history.read(&ask(NOW, NOW + 20, 10), NOW));
    assert_eq!(look(), [(NOW, 1.0), (NOW + 10, 2.0)]);
    assert_eq!(count(&folder, "fine"), 1);
    other.execute_batch("ROLLBACK").unwrap();
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), 2);
    assert_eq!(look(), [(NOW, 1.0), (NOW + 10, 2.0)]);
}

#[test]
fn a_full_disk_loses_no_more_than_what_waits_and_mends_itself() {
    let (folder, history) = begun();
    history.record(sample(NOW, 1.0));
    history.flush(NOW, true);
    {
        let slot = history.slot();
        let connection = &slot.file.as_ref().unwrap().connection;
        // No page more than there is.
        let pages: i64 = connection
            .query_row("PRAGMA max_page_count = 1", (), |row| row.get(0))
            .unwrap();
        assert!(pages < 100);
    }
    for n in 1..=PENDING_MAX as u64 {
        let mut sample = sample(NOW + 10 * n, 1.0);
        for step in 0..WAIT_STEPS {
            sample.waits.add(step, 1);
        }
        history.record(sample);
    }
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), 1, "all of it or nothing");
    assert!(history.slot().told);
    // The file is opened anew, with the limit that it should have.
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), 1 + PENDING_MAX as u64);
    assert!(!history.slot().told);
}

#[test]
fn a_damaged_file_is_put_aside_and_a_new_one_begun() {
    let (folder, history) = begun();
    let path = folder.path().join(HISTORY_FILE_NAME);
    let aside = folder.path().join(format!("{HISTORY_FILE_NAME}{BROKEN}"));
    fs::write(
        &path,
        "no database, but longer than the header of one".repeat(9),
    )
    .unwrap();
    history.record(sample(NOW, 4.0));
    history.flush(NOW, true);
    assert!(
        fs::read_to_string(&aside)
            .unwrap()
            .starts_with("no database")
    );
    assert_eq!(count(&folder, "fine"), 1);
    // One whose tables are gone is no better, while it is open too.
    run(&folder, "DROP TABLE minutes");
    history.record(sample(NOW + 10, 5.0));
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), 1);
    assert!(!fs::read_to_string(&aside).is_ok_and(|text| text.starts_with("no database")));
    // A disk that damages every file is not written to for ever.
    for _ in 0..9 {
        history.flush(NOW, true);
        let slot = history.slot();
        let refused = slot.refused.is_some();
        drop(slot);
        if refused {
            break;
        }
        run(&folder, "DROP TABLE minutes");
        history.record(sample(NOW + 20, 6.0));
    }
    assert!(history.slot().refused.is_some());
}

#[test]
fn the_file_of_another_program_or_a_newer_one() {
    let (folder, history) = begun();
    run(&folder, "PRAGMA user_version = 1; CREATE TABLE theirs (x)");
    history.record(sample(NOW, 1.0));
    history.flush(NOW, true);
    assert_eq!(count(&folder, "fine"), 1);
    let (folder, history) = begun();
    history.flush(NOW, true);
    run(&folder, "PRAGMA user_version = 99");
    let newer = History::new(folder.path(), 90);
    newer.record(sample(NOW, 1.0));
    newer.flush(NOW, true);
    let page = newer.read(&ask(NOW, NOW + 10, 2), NOW);
    assert!(matches!(
        page.trouble,
        Some(HistoryError::Newer { found: 99, .. })
    ));
    assert_eq!(said(&page), [(NOW, 1.0)], "as long as this program runs");
    assert_eq!(count(&folder, "fine"), 0);
    drop(history);
}

#[test]
fn notes_are_kept_found_and_forgotten_and_nothing_else_is() {
    let (folder, history) = begun();
    history.mark(Mark::new(NOW * 1000, MarkKind::Crash, "why").of_model("m"));
    let note = history.add_note(NOW * 1000 + 500, "a new fan").unwrap();
    history.flush(NOW, true);
    let look = || history.read(&ask(NOW, NOW + 10, 2), NOW).marks;
    let marks = look();
    let told: Vec<_> = marks
        .iter()
        .map(|one| (one.kind, one.text.as_str()))
        .collect();
    assert_eq!(
        told,
        [(MarkKind::Crash, "why"), (MarkKind::Note, "a new fan")]
    );
    assert_eq!(marks[0].model.as_deref(), Some("m"));
    assert_eq!(marks[1], note);
    let crash = marks[0].id.unwrap();
    assert_eq!(history.remove_note(crash), Ok(false), "it is no note");
    assert_eq!(history.remove_note(note.id.unwrap()), Ok(true));
    assert_eq!(history.remove_note(note.id.unwrap()), Ok(false));
    assert_eq!(look().len(), 1);
    for _ in 0..NOTES_MAX {
        history.add_note(NOW * 1000, "x").unwrap();
    }
    assert_eq!(
        history.add_note(NOW * 1000, "x"),
        Err(HistoryError::TooManyNotes { limit: NOTES_MAX })
    );
    let long = Mark::new(0, MarkKind::Note, "é".repeat(MARK_TEXT_BYTES_MAX));
    assert_eq!(long.text.len(), MARK_TEXT_BYTES_MAX);
    drop(folder);
}

/// Fills the fine table with rows that begin at `from_s`.
fn fill(folder: &TempDir, from_s: u64, n_rows: u64) {
    run(
        folder,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {n_rows} - 1) \
             INSERT OR REPLACE INTO fine SELECT {from_s} + 10 * i, x'0100000001000000000000' FROM n"
        ),
    );
}

/// One look for what is too old, whenever the last was.
fn prune(history: &History, now_s: u64, is_steady: bool) {
    let mut slot = history.slot();
    slot.file = None;
    drop(slot);
    history.flush(now_s, is_steady);
}

#[test]
fn rows_are_bounded_and_a_wrong_clock_takes_little() {
    let (folder, history) = begun();
    history.flush(NOW, true);
    let rows_max = TIERS[0].rows_max;
    fill(&folder, NOW - 10 * (rows_max + 500), rows_max + 500);
    prune(&history, NOW, false);
    assert_eq!(count(&folder, "fine"), rows_max);
    let oldest = history.read(&ask(0, NOW, 20_000), NOW);
    drop(oldest);
    // A clock that is 70 years ahead and not steady deletes by number alone.
    prune(&history, NOW + 70 * 31_536_000, false);
    assert_eq!(count(&folder, "fine"), rows_max);
    // Even one that is believed takes no more than a part.
    prune(&history, NOW + 70 * 31_536_000, true);
    assert_eq!(count(&folder, "fine"), rows_max - 1000);
    // What it has written goes first once the clock is right.
    history.record(sample(NOW + 70 * 31_536_000, 1.0));
    prune(&history, NOW, true);
    let path = folder.path().join(HISTORY_FILE_NAME);
    let connection = Connection::open(path).unwrap();
    let latest: i64 = connection
        .query_row("SELECT max(at_s) FROM fine", (), |row| row.get(0))
        .unwrap();
    assert!((latest as u64) < NOW);
    assert_eq!(count(&folder, "fine"), rows_max - 1000);
}

#[test]
fn a_shorter_history_forgets_what_is_older() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(folder.path(), 2);
    let day = 86_400;
    for (n, days) in [0, 1, 3, 60].into_iter().enumerate() {
        let at_s = NOW - days * day;
        history.record(sample(at_s, n as f64));
        history.mark(Mark::new(at_s * 1000, MarkKind::Load, ""));
    }
    prune(&history, NOW, true);
    let counts = TIERS.map(|tier| count(&folder, tier.table));
    assert_eq!(counts, [2, 2, 2]);
    assert_eq!(count(&folder, "marks"), 2);
}

#[test]
fn marks_are_bounded_and_notes_stay_longest() {
    let (folder, history) = begun();
    history.add_note(1, "the oldest").unwrap();
    run(
        &folder,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MARKS_MAX} + 300) \
             INSERT INTO marks (at_ms, kind, text) SELECT i, 'load', '' FROM n"
        ),
    );
    prune(&history, NOW, false);
    assert_eq!(count(&folder, "marks"), MARKS_MAX);
    assert_eq!(count(&folder, "marks WHERE kind = 'note'"), 1);
}

#[test]
fn a_run_that_was_cut_off_is_told_by_the_next() {
    let (folder, history) = begun();
    history.begin(NOW * 1000, "1.0");
    history.record(sample(NOW, 1.0));
    history.flush(NOW, true);
    drop(history);
    let second = History::new(folder.path(), 90);
    second.begin((NOW + 60) * 1000, "1.0");
    second.mark(Mark::new((NOW + 70) * 1000, MarkKind::Stop, ""));
    second.flush(NOW + 70, true);
    drop(second);
    let third = History::new(folder.path(), 90);
    third.begin((NOW + 80) * 1000, "1.1");
    let marks = third.read(&ask(NOW, NOW + 100, 2), NOW + 100).marks;
    let texts: Vec<_> = marks.iter().map(|mark| mark.text.as_str()).collect();
    assert_eq!(texts[0], "version 1.0");
    assert!(texts[1].contains(&stdx::rfc3339(NOW)), "{}", texts[1]);
    assert_eq!(texts[2..], ["", "version 1.1"]);
}
