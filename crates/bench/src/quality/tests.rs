use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Samples of each kind that each question has.
const SAMPLES_MIN: usize = 20;

/// What a grade comes to; code is run as it is, since the samples are ours.
fn settled(grade: Grade) -> Result<(), String> {
    match grade {
        Grade::Right => Ok(()),
        Grade::Wrong(why) => Err(why),
        Grade::Run(Script(program)) => {
            let mut child = Command::new("python3")
                .args(["-I", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = child.stdin.take().unwrap();
            input.write_all(program.as_bytes()).unwrap();
            drop(input);
            let output = child.wait_with_output().unwrap();
            Script::judge(&String::from_utf8(output.stdout).unwrap())
        }
    }
}

#[test]
fn the_suite_has_fourteen_questions_in_six_dimensions() {
    let suite = suite().unwrap();
    let count = |dimension| {
        let of_it = suite.iter().filter(|one| one.dimension == dimension);
        of_it.count()
    };
    assert_eq!(Dimension::ALL.map(count), [3, 3, 2, 3, 2, 1]);
    for (question, (name, _)) in suite.iter().zip(FILES) {
        assert_eq!(question.id, name);
        assert!(question.weight > 0.0 && !question.why.is_empty());
        assert!(!question.prompt.trim().is_empty());
        let calls = matches!(question.check, Check::Call(_));
        assert_eq!(question.tools.is_empty(), !calls, "{name}");
    }
}

#[test]
fn right_answers_are_right_and_wrong_ones_wrong() {
    let mut faults = Vec::new();
    for question in suite().unwrap() {
        let (id, n) = (&question.id, question.accepted.len());
        assert!(
            n >= SAMPLES_MIN && question.rejected.len() >= SAMPLES_MIN,
            "{id}"
        );
        for answer in &question.accepted {
            if let Err(why) = settled(question.grade(answer)) {
                faults.push(format!("{id} rejects {answer:?}: {why}"));
            }
        }
        for answer in &question.rejected {
            if settled(question.grade(answer)).is_ok() {
                faults.push(format!("{id} accepts {answer:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn thoughts_are_no_part_of_an_answer_and_their_marks_are_noticed() {
    let answer = |text: &str| Answer {
        text: text.into(),
        calls: Vec::new(),
    };
    for (text, rest) in [
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("a<think>b", "a"),
        ("<think></think>\n\nb", "\n\nb"),
        ("<|channel>thought\na<channel|>b", "b"),
        ("<|channel|>analysis<|message|>a<|end|>b", "b"),
        ("<think>a</think>b<think>c</think>d", "bd"),
    ] {
        let answer = answer(text);
        assert!(answer.has_leaked_thought(), "{text}");
        assert_eq!(answer.without_thoughts(), rest, "{text}");
    }
    assert!(!answer("I think so").has_leaked_thought());
}
