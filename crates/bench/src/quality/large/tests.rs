use std::collections::BTreeSet;

use super::*;
use crate::quality::{Answer, Call, Grade};
use serde_json::{Value, json};

/// A line or two of each set, as they are published.
fn sets() -> PublicSets {
    let choice = json!({ "passage": "It is wet.", "question": "Where is fog?\n", "options": "A. a marsh\nB. the plains", "answer": "B. the plains" });
    let bare = json!({ "question": "Where?", "options": "\nA. here\nB. there\nC. both", "answer": "A. here" });
    let task = json!({ "task_id": "HumanEval/7", "prompt": "def twice(n):\n    \"\"\"Two times n.\"\"\"\n", "entry_point": "twice",
        "canonical_solution": "", "test": "def check(candidate):\n    assert candidate(2) == 4\n" });
    let calling = |id: &str| {
        json!({ "id": id, "question": [[{ "role": "user", "content": "What is 5!?" }]], "function": [{ "name": "math.factorial",
            "description": "", "parameters": { "type": "dict", "properties": { "number": { "type": "integer" },
            "scale": { "type": "float" }, "more": { "type": "any" } }, "required": ["number"] } }] })
    };
    let truth = json!({ "id": "simple_1", "ground_truth": [{ "math.factorial": { "number": [5], "scale": ["", 1.0], "more": [""] } }] });
    let lost = json!({ "question": "Which?", "options": "A. .\nB. one", "answer": "B. one" });
    PublicSets {
        logiqa: format!("{choice}\n\n{choice}\n{lost}\n"),
        openbookqa: bare.to_string(),
        human_eval: task.to_string(),
        bfcl_simple: calling("simple_1").to_string(),
        bfcl_simple_answers: truth.to_string(),
        bfcl_irrelevance: calling("irrelevance_0").to_string(),
    }
}

fn text(text: &str) -> Answer {
    Answer {
        text: text.into(),
        calls: Vec::new(),
    }
}

fn called(name: &str, arguments: Value) -> Answer {
    let name = name.into();
    Answer {
        text: String::new(),
        calls: vec![Call { name, arguments }],
    }
}

#[test]
fn each_dimension_weighs_what_it_does_in_the_short_set() {
    let short = suite().unwrap();
    let all = large(&sets(), 100).unwrap();
    for dimension in Dimension::ALL {
        let weight = |of: &[Question]| -> f64 {
            let own = of.iter().filter(|one| one.dimension == dimension);
            own.map(|one| one.weight).sum()
        };
        assert!(
            (weight(&short) - weight(&all)).abs() < 1e-9,
            "{dimension:?}"
        );
    }
    let count = |dimension| all.iter().filter(|one| one.dimension == dimension).count();
    assert_eq!(count(Dimension::Math), 100);
    assert_eq!(count(Dimension::Instruction), 100);
    let ids: BTreeSet<&String> = all.iter().map(|one| &one.id).collect();
    assert_eq!(ids.len(), all.len());
    assert!(
        !ids.contains(&"logiqa/3".to_owned()),
        "its options are not sound"
    );
    let again = large(&sets(), 100).unwrap();
    assert!(
        all.iter()
            .map(|one| &one.id)
            .eq(again.iter().map(|one| &one.id))
    );
    assert!(large(&sets(), 10_000).unwrap().len() <= 6 * ITEMS_MAX);
}

#[test]
fn questions_of_public_sets_are_judged_as_they_mean() {
    let all = large(&sets(), 9).unwrap();
    let grade = |id: &str, answer: &Answer| {
        let question = all
            .iter()
            .find(|one| one.id == id)
            .unwrap_or_else(|| panic!("{id}"));
        question.grade(answer)
    };
    assert_eq!(grade("logiqa/0", &text("Answer: B")), Grade::Right);
    assert!(matches!(
        grade("logiqa/2", &text("Answer: A")),
        Grade::Wrong(_)
    ));
    assert_eq!(grade("openbookqa/0", &text("here")), Grade::Right);
    assert!(matches!(
        grade("humaneval/7", &text("def twice(n):\n    return 2 * n")),
        Grade::Run(_)
    ));

    let simple = "bfcl/simple_1";
    for arguments in [json!({ "number": 5 }), json!({ "number": 5.0, "scale": 1 })] {
        assert_eq!(
            grade(simple, &called("math_factorial", arguments)),
            Grade::Right
        );
    }
    for arguments in [
        json!({}),
        json!({ "number": 6 }),
        json!({ "number": 5, "other": 1 }),
        json!({ "number": 5, "scale": 2 }),
        json!(5),
    ] {
        let graded = grade(simple, &called("math_factorial", arguments.clone()));
        assert!(matches!(graded, Grade::Wrong(_)), "{arguments}");
    }
    let idle = "bfcl/irrelevance_0";
    assert_eq!(grade(idle, &text("I have nothing for that.")), Grade::Right);
    let written = r#"{"name": "math_factorial", "arguments": {"number": 5}}"#;
    for answer in [
        text(written),
        text(""),
        called("math_factorial", json!({ "number": 5 })),
    ] {
        assert!(
            matches!(grade(idle, &answer), Grade::Wrong(_)),
            "{answer:?}"
        );
    }
    let tools = &all.iter().find(|one| one.id == simple).unwrap().tools;
    let schema = &tools[0]["function"]["parameters"];
    assert_eq!(schema["type"], "object");
    assert_eq!(schema["properties"]["scale"]["type"], "number");
    assert_eq!(schema["properties"]["more"], json!({}));
}

#[test]
fn a_line_that_is_none_is_named() {
    let broken = |change: fn(&mut PublicSets)| {
        let mut sets = sets();
        change(&mut sets);
        large(&sets, 5).unwrap_err().to_string()
    };
    let told = broken(|sets| sets.logiqa.push_str("{}\n"));
    assert!(told.contains("line 5 of LogiQA"), "{told}");
    let told = broken(|sets| sets.openbookqa = sets.openbookqa.replace("A. here\"", "D. no\""));
    assert!(told.contains("none of the options"), "{told}");
    let told = broken(|sets| sets.bfcl_simple_answers = String::new());
    assert!(told.contains("not one answer"), "{told}");
}

/// Each kind of problem once more, by hand or by another way of counting.
#[test]
fn problems_have_the_answers_that_they_should() {
    let drafts = math::all();
    assert_eq!(drafts.len(), 400);
    let prompts: BTreeSet<&String> = drafts.iter().map(|one| &one.prompt).collect();
    assert!(prompts.len() >= 395, "{}", prompts.len());
    for draft in &drafts {
        let numbers: Vec<i64> = draft
            .prompt
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|text| text.parse().ok())
            .collect();
        let Some(answer) = by_another_way(&draft.prompt, &numbers) else {
            panic!("{}", draft.prompt);
        };
        let Check::Number(check) = &draft.check else {
            panic!("{draft:?}");
        };
        assert_eq!(
            check.judge(&format!("Answer: {answer}")),
            Ok(()),
            "{}",
            draft.prompt
        );
        assert!(check.judge(&format!("Answer: {}", answer + 1)).is_err());
        assert!(answer >= 0, "{}", draft.prompt);
    }
}

/// By search or by counting one after another where that is another way.
fn by_another_way(prompt: &str, n: &[i64]) -> Option<i64> {
    let begins = |text: &str| prompt.contains(text);
    Some(if begins("notebooks") {
        n[4] - (0..n[0]).map(|_| n[1]).sum::<i64>() - (0..n[2]).map(|_| n[3]).sum::<i64>()
    } else if begins("A train") {
        n[0] * n[1] + n[2] * n[3]
    } else if begins("boxes") {
        (0..1000).find(|each| each * n[3] + n[2] == n[0] * n[1])?
    } else if begins("older than Ben") {
        (0..100).find(|ben| (ben + n[1]) + (ben + n[0] + n[1]) == n[2])?
    } else if begins("A chair") {
        (0..100_000).find(|cost| cost * 100 == n[2] * n[0] * (100 - n[1]))?
    } else if begins("machines make") {
        // Parts by machine and minute.
        n[3] * n[4] * n[1] / (n[0] * n[2])
    } else if begins("A garden") {
        let long = n[0] + n[1];
        (n[0] + long + n[0] + long - n[2]) * n[3]
    } else if begins("fourth week") {
        (1..=n[2]).fold(0, |sum, week| {
            sum + n[0] - if week % 4 == 0 { n[1] } else { 0 }
        })
    } else if begins("reads a book") {
        n[0] - (0..n[3]).map(|day| n[1] + day * n[2]).sum::<i64>()
    } else if begins("theatre") {
        (0..n[0]).map(|row| n[1] + row * n[2]).sum()
    } else if begins("recipe") {
        (0..10_000).find(|bags| bags * n[2] * n[0] >= n[1] * n[3])?
    } else if begins("pupils") {
        let football = n[0] / n[1];
        let others = n[0] - football;
        assert_eq!((football * n[1], others % n[2]), (n[0], 0), "{prompt}");
        others - others / n[2]
    } else if begins("scores is") {
        (0..1000).find(|last| n[0] * n[1] + last == n[2] * (n[0] + 1))?
    } else if begins("A tank") {
        (0..1000).find(|minutes| n[1] + minutes * (n[2] - n[3]) >= n[0])?
    } else if begins("Hens") {
        (0..100).find(|rabbits| 4 * rabbits + 2 * (n[0] - rabbits) == n[1])?
    } else if begins("rolls of cloth") {
        n[0] * n[1] - n[2] * n[3] + n[1]
    } else {
        return None;
    })
}

#[test]
fn rules_are_asked_for_as_they_are_judged() {
    let drafts = instructions::all();
    assert_eq!(drafts.len(), 320);
    for draft in &drafts {
        let Check::Rules(check) = &draft.check else {
            panic!("{draft:?}");
        };
        for rule in &check.rules {
            assert!(draft.prompt.contains(&rule.asked()), "{}", draft.prompt);
        }
        assert!(check.judge("no").is_err(), "{}", draft.prompt);
    }
}
