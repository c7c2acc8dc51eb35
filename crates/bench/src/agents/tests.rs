use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::quality::Script;

/// Runs a program of ours on files of ours.
fn ran(program: Script, folder: &Path) -> String {
    let mut child = Command::new("python3")
        .args(["-I", "-B", "-"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(program.0.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Whether the tests and the unseen calls pass of the task's files with these over them.
fn judged(task: &Task, repair: &Repair, over: &[File]) -> (bool, bool) {
    let folder = tempfile::tempdir().unwrap();
    for file in task.given().chain(over) {
        fs::write(folder.path().join(&file.path), &file.text).unwrap();
    }
    let tests = judge_tests(&ran(tests_program(Some(repair)), folder.path()));
    let cases = judge_cases(repair, &ran(cases_program(task, repair), folder.path()));
    (tests.is_ok(), cases.is_ok())
}

fn repairs(tasks: &[Task]) -> impl Iterator<Item = (&Task, &Repair)> {
    tasks.iter().filter_map(|task| match &task.check {
        Check::Repair(repair) => Some((task, repair)),
        Check::Call(_) => None,
    })
}

#[test]
fn tasks_are_of_graded_difficulty() {
    let tasks = suite().unwrap();
    assert_eq!(tasks.len(), sources().len());
    for task in &tasks {
        assert!(sources().contains_key(task.id.as_str()), "{}", task.id);
        assert!((1..=4).contains(&task.level) && !task.about.is_empty());
        // A path of a task leads nowhere else.
        for file in task.given() {
            let parts = file.path.split('/');
            assert!(parts.clone().all(|part| !part.is_empty() && part != ".."));
        }
    }
    let levels: Vec<u8> = repairs(&tasks).map(|(task, _)| task.level).collect();
    assert!(levels.is_sorted() && levels.len() >= 6, "{levels:?}");
    for (task, repair) in repairs(&tasks) {
        assert!(repair.cases.len() >= 8, "{}", task.id);
        let two = repair
            .solution
            .iter()
            .filter(|file| !task.files.contains(file));
        assert_eq!(two.count() > 1, task.level > 2, "{}", task.id);
    }
}

#[test]
fn a_repository_is_broken_repaired_and_not_deceived() {
    for (task, repair) in repairs(&suite().unwrap()) {
        let id = &task.id;
        assert_eq!(judged(task, repair, &[]), (false, false), "{id} as it is");
        assert_eq!(
            judged(task, repair, &repair.solution),
            (true, true),
            "{id} solved"
        );
        assert_eq!(
            judged(task, repair, &repair.hollow),
            (true, false),
            "{id} hollow"
        );
    }
}

#[test]
fn code_that_says_it_is_right_is_judged_by_what_it_gives() {
    let tasks = suite().unwrap();
    let (task, repair) = repairs(&tasks).next().unwrap();
    let lies = "import sys, os\n\
        sys.__stdout__.write('\\njudged: right\\ncase 0: {\"value\": true}\\n')\n\
        sys.__stdout__.flush()\nos._exit(0)\n";
    let file = File {
        path: task.files[0].path.clone(),
        text: lies.into(),
    };
    assert!(!judged(task, repair, &[file]).1);
    assert!(judge_tests("judged: right").is_ok());
    assert!(judge_tests("OK").is_err() && judge_cases(repair, "").is_err());
}

#[test]
fn right_calls_are_right_and_wrong_ones_wrong() {
    for task in suite().unwrap() {
        let Check::Call(call) = &task.check else {
            continue;
        };
        for answer in &call.accepted {
            assert_eq!(call.judge(answer), Ok(()), "{} {answer:?}", task.id);
        }
        for answer in &call.rejected {
            assert!(call.judge(answer).is_err(), "{} {answer:?}", task.id);
        }
    }
}

#[test]
fn values_are_compared_as_numbers_and_to_the_letter() {
    let case = |value: serde_json::Value| Case {
        call: String::new(),
        value: Some(value),
        raises: None,
    };
    let got = |value: serde_json::Value| serde_json::json!({ "value": value });
    for (wanted, value, is_met) in [
        (1.into(), 1.0.into(), true),
        (0.3.into(), 0.300_000_000_000_000_04.into(), true),
        (0.into(), 0.0.into(), true),
        (1.into(), true.into(), false),
        (1.into(), "1".into(), false),
        ("a".into(), "A".into(), false),
        (vec![1, 2].into(), vec![1, 2].into(), true),
        (vec![1, 2].into(), vec![2, 1].into(), false),
        (vec![1].into(), vec![1, 2].into(), false),
    ] {
        assert_eq!(case(wanted).is_met(&got(value)), is_met);
    }
    let raises = Case {
        raises: Some("ValueError".into()),
        value: None,
        call: String::new(),
    };
    assert!(raises.is_met(&serde_json::json!({ "raises": "ValueError" })));
    assert!(!raises.is_met(&serde_json::json!({ "raises": "KeyError" })));
    assert!(!raises.is_met(&got(1.into())));
}
