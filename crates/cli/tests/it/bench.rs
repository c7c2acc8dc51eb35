//! Quality through an endpoint: a scripted one that is always right, one that never is, and a
//! pipeline with faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bench::quality::{Answer, suite};
use serde_json::{Value, json};

use crate::sandbox::{Ran, Sandbox};

type Answers = dyn Fn(&Value) -> (u16, Value) + Send + Sync;

/// Serves `/v1/models` and what `answers` says to chat requests; ends with the test.
fn endpoint(answers: Arc<Answers>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let answers = Arc::clone(&answers);
            std::thread::spawn(move || serve(socket, &*answers));
        }
    });
    format!("http://{address}")
}

fn serve(mut socket: TcpStream, answers: &Answers) {
    let mut reader = BufReader::new(socket.try_clone().unwrap());
    let (mut first, mut length) = (String::new(), 0);
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.to_lowercase().strip_prefix("content-length:") {
            Some(n) => length = n.trim().parse().unwrap(),
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (status, answer) = if first.contains("/v1/models") {
        (
            200,
            json!({ "data": [{ "id": "model" }, { "id": "other" }] }),
        )
    } else if first.contains("/props") {
        (404, json!({ "error": "not of llama.cpp's kind" }))
    } else {
        answers(&serde_json::from_slice(&body).unwrap())
    };
    let answer = answer.to_string();
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _ = socket.write_all(text.as_bytes());
}

/// As an engine would send it.
fn completion(request: &Value, answer: &Answer) -> Value {
    let calls: Vec<Value> = answer
        .calls
        .iter()
        .map(|call| {
            let arguments = call.arguments.to_string();
            json!({ "id": "c", "type": "function",
                "function": { "name": call.name, "arguments": arguments } })
        })
        .collect();
    json!({
        "model": request["model"],
        "choices": [{ "finish_reason": "stop",
            "message": { "role": "assistant", "content": answer.text, "tool_calls": calls } }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 9 },
    })
}

/// Plays a model that takes the first sample of each question.
fn scripted(is_right: bool) -> Arc<Answers> {
    let suite = suite().unwrap();
    Arc::new(move |request| {
        let prompt = request["messages"][0]["content"].as_str().unwrap();
        let question = suite
            .iter()
            .find(|one| one.prompt.trim() == prompt)
            .unwrap();
        let samples = match is_right {
            true => &question.accepted,
            false => &question.rejected,
        };
        (200, completion(request, &samples[0]))
    })
}

fn quality(url: &str, more: &[&str]) -> Ran {
    let mut arguments = vec!["bench", "quality", "--url", url, "--json"];
    arguments.extend(more);
    Sandbox::new().run(&arguments)
}

fn results(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn an_oracle_scores_all_and_its_opposite_nothing() {
    for (is_right, right) in [(true, 14), (false, 0)] {
        let url = endpoint(scripted(is_right));
        let ran = quality(&url, &["model", "--repeats", "1"]);
        let results = results(&ran);
        let result = &results["results"][0];
        assert_eq!(result["all"]["right"], right, "{}", ran.stderr);
        assert_eq!(
            (&result["all"]["n"], &result["void"]),
            (&json!(14), &json!(0))
        );
    }
}

#[test]
fn a_fault_of_the_pipeline_is_not_counted_against_the_model() {
    let right = scripted(true);
    let url = endpoint(Arc::new(move |request: &Value| {
        match request["tools"].is_array() {
            true => {
                let message = "this model does not support tools";
                (400, json!({ "error": { "message": message } }))
            }
            false => right(request),
        }
    }));
    let ran = quality(&url, &["model", "--repeats", "2"]);
    let results = results(&ran);
    let result = &results["results"][0];
    assert_eq!(
        (&result["all"]["right"], &result["all"]["n"]),
        (&json!(24), &json!(24))
    );
    assert_eq!(result["void"], 4);
    assert_eq!(result["dimensions"]["tool_call"]["n"], 0);
    assert!(ran.stderr.contains("tools_refused"), "{}", ran.stderr);
}

#[test]
fn a_run_that_was_ended_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("attempts.jsonl");
    let name = file.to_str().unwrap();
    let url = endpoint(scripted(true));
    let more = ["model", "other", "--repeats", "2", "--out", name];
    assert_eq!(results(&quality(&url, &more))["results"][1]["all"]["n"], 28);
    let whole = std::fs::read_to_string(&file).unwrap();
    // Ended in the middle of a line.
    let cut = &whole[..whole.len() / 2];
    std::fs::write(&file, cut).unwrap();
    let ran = quality(&url, &more);
    assert_eq!(results(&ran)["results"][0]["all"]["right"], 28);
    let n_kept = attempts_in(cut);
    assert!(
        ran.stderr.contains(&format!("{n_kept} attempts")),
        "{}",
        ran.stderr
    );
    assert_eq!(attempts_in(&std::fs::read_to_string(&file).unwrap()), 56);
    // Attempts made in another manner do not go with these.
    let mut other = more.to_vec();
    other.extend(["--tokens", "99"]);
    let ran = quality(&url, &other);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("another manner"), "{}", ran.stderr);
}

/// Lines of attempts that are whole.
fn attempts_in(text: &str) -> usize {
    let lines = text.lines().map(serde_json::from_str::<Value>);
    lines
        .filter(|line| line.as_ref().is_ok_and(|line| line["question"].is_string()))
        .count()
}
