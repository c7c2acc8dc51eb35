use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn stored(kind: &str, model: &str, records: &[&str]) -> Stored {
    let heading = json!({ "version": 1, "model": model });
    let records: Vec<String> = records.iter().map(|&record| record.to_owned()).collect();
    Stored {
        run: ResultRun {
            id: result_id(kind, &heading, &records),
            kind: kind.to_owned(),
            began_s: 1,
            ended_s: 2,
            command: ["sextant", "bench", kind].map(str::to_owned).to_vec(),
            source: "bench".to_owned(),
            server: Some("http://127.0.0.1:1".to_owned()),
            program: Some("sextant 0".to_owned()),
            machine: ResultMachine {
                cpu: Some("a processor".to_owned()),
                cores: Some(2),
                kernel: Some("6.1".to_owned()),
                memory_bytes: Some(8 << 30),
                board: None,
            },
            load_before: Some(0.5),
            load_after: None,
            models: vec![ResultModel {
                name: model.to_owned(),
                bytes: Some(7),
                fingerprint: Some("7-ab".to_owned()),
                ..ResultModel::default()
            }],
            heading,
            n_records: records.len() as u64,
            bytes: 9,
        },
        records,
    }
}

fn open() -> (TempDir, ResultsSession) {
    let folder = TempDir::new().unwrap();
    let session = Results::open(folder.path()).unwrap().connect().unwrap();
    (folder, session)
}

fn ids(runs: &[ResultRun]) -> Vec<&str> {
    runs.iter().map(|run| run.id.as_str()).collect()
}

#[test]
fn what_is_added_comes_back_and_is_there_once() {
    let (folder, mut session) = open();
    let one = stored("quality", "Small", &[r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(
        session.add(std::slice::from_ref(&one)).unwrap(),
        [Added::New]
    );
    let two = stored("speed", "Large", &[r#"{"n":1}"#]);
    assert_eq!(
        session.add(&[one.clone(), two.clone()]).unwrap(),
        [Added::There, Added::New]
    );
    // Of another process.
    let session = Results::open_existing(folder.path()).unwrap().unwrap();
    let session = session.connect().unwrap();
    let all = session.runs(&ResultFilter::default()).unwrap();
    assert_eq!(all, [two.run.clone(), one.run.clone()], "the last first");
    assert_eq!(session.records(&one.run.id).unwrap(), one.records);
    assert_eq!(session.run(&two.run.id).unwrap().as_ref(), Some(&two.run));
    let of = |kind: Option<&str>, model: Option<&str>| ResultFilter {
        kind: kind.map(str::to_owned),
        model: model.map(str::to_owned),
        limit: None,
    };
    for (filter, wanted) in [
        (of(Some("speed"), None), vec![&two.run]),
        (of(None, Some("sMaL")), vec![&one.run]),
        (of(Some("speed"), Some("small")), vec![]),
        (of(None, Some("%")), vec![]),
    ] {
        let found = session.runs(&filter).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{filter:?}");
    }
}

#[test]
fn runs_are_found_by_what_was_last_and_by_how_their_ids_begin() {
    let (_folder, mut session) = open();
    let runs: Vec<Stored> = ["1", "2", "3"]
        .map(|record| stored("load", "m", &[record]))
        .to_vec();
    session.add(&runs).unwrap();
    session.add(&[stored("speed", "m", &["1"])]).unwrap();
    let last = |kind, back| {
        let found = session.last(kind, back).unwrap();
        found.map(|run| run.id)
    };
    assert_eq!(last(Some("load"), 0).as_ref(), Some(&runs[2].run.id));
    assert_eq!(last(Some("load"), 2).as_ref(), Some(&runs[0].run.id));
    assert_eq!(last(Some("load"), 3), None);
    assert!(last(None, 0).unwrap().starts_with("speed-"));
    let begins = |id: &str| session.runs_that_begin(id).unwrap();
    assert_eq!(begins("load-").len(), 2, "two are enough to know");
    let id = &runs[1].run.id;
    assert_eq!(ids(&begins(&id[..id.len() - 1])), [id]);
    assert!(begins("%").is_empty());
}

#[test]
fn removed_runs_leave_nothing_and_others_stay() {
    let (folder, mut session) = open();
    let canary = "a canary that sings ".repeat(5000);
    let gone = stored("quality", "m", &[&canary]);
    let stays = stored("quality", "n", &["1"]);
    session.add(&[gone.clone(), stays.clone()]).unwrap();
    let absent = "quality-0000000000".to_owned();
    let removed = session.remove(&[gone.run.id.clone(), absent]).unwrap();
    assert_eq!(removed, 1);
    let all = session.runs(&ResultFilter::default()).unwrap();
    assert_eq!(ids(&all), [&stays.run.id]);
    assert!(session.records(&gone.run.id).unwrap().is_empty());
    drop(session);
    let bytes = std::fs::read(folder.path().join(RESULTS_FILE_NAME)).unwrap();
    assert!(bytes.len() < canary.len(), "{} bytes", bytes.len());
}

#[test]
fn programs_that_write_at_once_all_succeed() {
    let folder = TempDir::new().unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let folder = folder.path().to_owned();
            // Each begins with the file that may not be there yet.
            std::thread::spawn(move || {
                for n in 0..10 {
                    let mut session = Results::open(&folder).unwrap().connect().unwrap();
                    let one = stored("load", &format!("{writer}"), &[&n.to_string()]);
                    assert_eq!(session.add(&[one]).unwrap(), [Added::New]);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let session = Results::open(folder.path()).unwrap().connect().unwrap();
    let all = session.runs(&ResultFilter::default()).unwrap();
    assert_eq!(all.len(), 80);
}

/// Does nothing unless the test below starts it: adds runs until it is killed.
#[test]
fn a_writer_that_is_killed() {
    let Ok(folder) = std::env::var("RESULTS_OF_A_KILLED_WRITER") else {
        return;
    };
    let mut session = Results::open(Path::new(&folder))
        .unwrap()
        .connect()
        .unwrap();
    for n in 0_u64.. {
        let records: Vec<String> = (0..500).map(|place| format!("{n} {place}")).collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        session.add(&[stored("load", "m", &records)]).unwrap();
        println!("added {n}");
    }
}

#[test]
fn a_kill_loses_at_most_the_run_at_work() {
    use std::io::{BufRead, BufReader};

    let folder = TempDir::new().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            "results::tests::a_writer_that_is_killed",
        ])
        .env("RESULTS_OF_A_KILLED_WRITER", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("added"))
        .take(5);
    assert_eq!(told.count(), 5);
    child.kill().unwrap();
    child.wait().unwrap();
    let session = Results::open(folder.path()).unwrap().connect().unwrap();
    let all = session.runs(&ResultFilter::default()).unwrap();
    assert!(all.len() >= 5, "{} runs", all.len());
    for run in all {
        assert_eq!(session.records(&run.id).unwrap().len(), 500, "{}", run.id);
    }
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let folder = TempDir::new().unwrap();
    crate::Store::open(folder.path()).unwrap();
    let own = folder.path().join(crate::FILE_NAME);
    std::fs::copy(own, folder.path().join(RESULTS_FILE_NAME)).unwrap();
    let told = Results::open(folder.path()).unwrap_err().to_string();
    assert!(
        told.contains("results.db") && told.contains("another program"),
        "{told}"
    );
    assert_eq!(Results::open_existing(Path::new("/nowhere")).unwrap(), None);
}
