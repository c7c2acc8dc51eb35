//! Quality through an endpoint: a scripted one that is always right, one that never is, and a
//! pipeline with faults.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use bench::quality::{Answer, suite};
use serde_json::{Value, json};

use crate::sandbox::{Ran, Sandbox};

pub(crate) type Answers = dyn Fn(&Value) -> (u16, Value) + Send + Sync;

/// Serves `/v1/models` and what `answers` says to chat requests; ends with the test. A status of 0
/// breaks the connection. The key that came is in the request as `key`.
pub(crate) fn endpoint(answers: Arc<Answers>) -> String {
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
    let (mut first, mut length, mut key) = (String::new(), 0, String::new());
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("authorization: bearer ") {
            value.trim().clone_into(&mut key);
        }
        match line.to_lowercase().strip_prefix("content-length:") {
            Some(n) => length = n.trim().parse().unwrap(),
            None if line.trim().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let mut request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (status, answer) = if first.contains("/v1/models") {
        (
            200,
            json!({ "data": [{ "id": "model" }, { "id": "other" }] }),
        )
    } else if first.contains("/props") {
        (404, json!({ "error": "not of llama.cpp's kind" }))
    } else {
        request["key"] = json!(key);
        answers(&request)
    };
    if status == 0 {
        return;
    }
    let (kind, answer) = match status == 200 && request["stream"] == true {
        true => ("text/event-stream", streamed(&answer)),
        false => ("application/json", answer.to_string()),
    };
    let text = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{answer}",
        answer.len()
    );
    let _ = socket.write_all(text.as_bytes());
}

/// An answer as events: its text, the end, and what was used.
fn streamed(answer: &Value) -> String {
    let text = &answer["choices"][0]["message"]["content"];
    let events = [
        json!({ "choices": [{ "delta": { "role": "assistant" } }] }),
        json!({ "choices": [{ "delta": { "content": text } }] }),
        json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }),
        json!({ "choices": [], "usage": answer["usage"] }),
    ];
    let events = events.map(|event| format!("data: {event}\n\n"));
    events.concat() + "data: [DONE]\n\n"
}

/// As an engine would send it.
pub(crate) fn completion(request: &Value, answer: &Answer) -> Value {
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
pub(crate) fn scripted(is_right: bool) -> Arc<Answers> {
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

pub(crate) fn results(ran: &Ran) -> Value {
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
pub(crate) fn attempts_in(text: &str) -> usize {
    let lines = text.lines().map(serde_json::from_str::<Value>);
    lines
        .filter(|line| line.as_ref().is_ok_and(|line| line["question"].is_string()))
        .count()
}

/// Reads so many words of a prompt at most, and finds the fact among them. Longer prompts than
/// `refuses` are an error.
pub(crate) fn reader(reads: usize, refuses: usize) -> Arc<Answers> {
    Arc::new(move |request| {
        let prompt = request["messages"][0]["content"].as_str().unwrap();
        let words: Vec<&str> = prompt.split_whitespace().collect();
        if words.len() > refuses {
            let message = format!("the context has {refuses} tokens");
            return (400, json!({ "error": { "message": message } }));
        }
        // The beginning goes, as in engines that shift.
        let kept = &words[words.len().saturating_sub(reads)..];
        let numbers = kept.iter().map(|word| word.trim_end_matches('.'));
        let mut numbers = numbers.filter(|word| word.parse::<u32>().is_ok());
        let code = numbers.next().unwrap_or("I cannot find it.");
        let answer = Answer {
            text: code.to_owned(),
            calls: Vec::new(),
        };
        let mut completion = completion(request, &answer);
        completion["usage"]["prompt_tokens"] = kept.len().into();
        (200, completion)
    })
}

fn context(sandbox: &Sandbox, url: &str, more: &[&str]) -> Ran {
    let lengths = "512,1024,2048,4096";
    let mut arguments = vec![
        "bench",
        "context",
        "model",
        "--url",
        url,
        "--lengths",
        lengths,
    ];
    arguments.extend(more);
    sandbox.run(&arguments)
}

#[test]
fn a_context_carries_as_far_as_the_fact_is_found() {
    let sandbox = Sandbox::new();
    let whole = endpoint(reader(usize::MAX, 3000));
    let results = results(&context(&sandbox, &whole, &["--json"]));
    assert_eq!(results["carries"], 2048);
    assert_eq!(results["accepts"], 2048);
    let last = &results["lengths"][3];
    assert_eq!(last["others"], json!({ "refused": 1 }));
    // Every word is a token there, which the first answers tell.
    let read = results["lengths"][2]["n_prompt"].as_u64().unwrap();
    assert!((1900..2016).contains(&read), "{read}");
}

#[test]
fn a_text_that_was_cut_in_silence_is_told_as_such() {
    let sandbox = Sandbox::new();
    let url = endpoint(reader(1000, usize::MAX));
    let results = results(&context(&sandbox, &url, &["--json", "--depths", "2"]));
    assert_eq!(
        (&results["carries"], &results["accepts"]),
        (&json!(1024), &json!(1024))
    );
    for length in 2..4 {
        let others = &results["lengths"][length]["others"];
        assert_eq!(*others, json!({ "cut": 2 }), "{results:#}");
    }
}

#[test]
fn answers_that_are_there_are_not_asked_for_again() {
    let sandbox = Sandbox::new();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, read) = (Arc::clone(&asked), reader(usize::MAX, usize::MAX));
    let url = endpoint(Arc::new(move |request: &Value| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        read(request)
    }));
    let file = sandbox.dir().join("context.jsonl");
    let flags = ["--out", file.to_str().unwrap(), "--depths", "3"];
    let first = context(&sandbox, &url, &flags);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(
        first
            .stdout
            .contains("right at every depth up to 4096 tokens"),
        "{}",
        first.stdout
    );
    let n = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(n, 12);
    let again = context(&sandbox, &url, &flags);
    assert_eq!((again.code, &again.stdout), (0, &first.stdout));
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), n);
    // Of another manner they are another thing.
    let other = context(&sandbox, &url, &[&flags[..], &["--seed", "5"]].concat());
    assert_eq!(other.code, 2, "{}", other.stderr);
    let short = context(&sandbox, &url, &["--tokens", "300"]);
    assert!(
        short.stderr.contains("give at least 600"),
        "{}",
        short.stderr
    );
}

#[test]
fn a_report_shows_files_of_all_kinds() {
    let sandbox = Sandbox::new();
    let path = |name: &str| sandbox.dir().join(name).display().to_string();
    let (quality_file, context_file) = (path("quality.jsonl"), path("context.jsonl"));
    let url = endpoint(scripted(true));
    let more = ["model", "other", "--repeats", "1", "--out", &quality_file];
    results(&quality(&url, &more));
    let url = endpoint(reader(1000, usize::MAX));
    context(&sandbox, &url, &["--out", &context_file, "--depths", "2"]);
    let speed_file = path("speed.jsonl");
    std::fs::write(&speed_file, SPEEDS).unwrap();

    let files = [quality_file.as_str(), &speed_file, &context_file];
    let markdown = sandbox.run(&[&["bench", "report"][..], &files].concat());
    assert_eq!(markdown.code, 0, "{}", markdown.stderr);
    for row in [
        "## Quality (quality.jsonl)",
        "| model, 1/1 | 100 |",
        "| threads=2 | 200 |",
        "| 1024 tokens | 1/1 | 1/1 |",
        "| 4096 tokens | 0/1 | 0/1 |",
        "read as a whole up to 1024 tokens",
    ] {
        assert!(markdown.stdout.contains(row), "{row}\n{}", markdown.stdout);
    }
    let page = path("page.html");
    let html = sandbox.run(&[&["bench", "report", "--html", &page][..], &files].concat());
    assert_eq!(
        (html.code, html.stdout.as_str()),
        (0, ""),
        "{}",
        html.stderr
    );
    let html = std::fs::read_to_string(&page).unwrap();
    assert_eq!(html.matches("<section>").count(), 3);
    assert!(html.contains("<svg") && html.contains("class=\"reach\""));

    let odd = path("odd.jsonl");
    std::fs::write(&odd, "{}\n").unwrap();
    let ran = sandbox.run(&["bench", "report", &odd]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_ne!(sandbox.run(&["bench", "report", "/nowhere"]).code, 0);
}

/// Of `bench speed`.
const SPEEDS: &str = r#"{"version":1,"build":"b","hardware":"h","models":["m"],"axes":[["threads",["1","2"]]],"prompt":512,"answer":64,"depth":0,"settings":[]}
{"point":["1"],"round":0,"failed":null,"prefill_tokens_s":100.0,"decode_tokens_s":10.0}
{"point":["2"],"round":0,"failed":null,"prefill_tokens_s":200.0,"decode_tokens_s":20.0}
"#;
