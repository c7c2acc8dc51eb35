//! `sextant bench load` on a server whose latencies are known: `cargo xtask bench simulated`.
//!
//! The server answers after a known time, with a known time between tokens; every fourth answer is
//! late. What the bench tells of it is held against that. Writes `docs/benchmarks/bench-load.md`.

use crate::bench::machine;
use crate::shell::{self, program, root, sextant};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MODEL: &str = "simulated";
/// Until the first token; of every fourth answer the other.
const TTFT: Duration = Duration::from_millis(200);
const TTFT_LATE: Duration = Duration::from_millis(600);
const LATE_EVERY: usize = 4;
const GAP: Duration = Duration::from_millis(20);
const TOKENS: u32 = 16;
/// What is promised: the late ones do not keep it.
const TTFT_MAX: Duration = Duration::from_millis(400);
const REQUESTS: u32 = 200;
const RATE: f64 = 16.0;
/// What the bench may be off by.
const ERROR_MAX: f64 = 0.02;

struct Row {
    name: &'static str,
    unit: &'static str,
    known: f64,
    told: f64,
}

impl Row {
    fn error(&self) -> f64 {
        self.told / self.known - 1.0
    }
}

pub(crate) fn run() -> Result<()> {
    let load = machine::load_average();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || serve(&listener));
    let told = measure(&url)?;
    let rows = rows(&told)?;
    let page = page(&rows, &load);
    fs::write(root().join("docs/benchmarks/bench-load.md"), &page)?;
    println!("{page}");
    for row in &rows {
        ensure!(
            row.error().abs() <= ERROR_MAX,
            "{} is off by {:+.1} %",
            row.name,
            100.0 * row.error()
        );
    }
    Ok(())
}

fn measure(url: &str) -> Result<Value> {
    let mut command = program(sextant(), &["bench", "load", MODEL, "--json", "--even"]);
    for (flag, value) in [
        ("--url", url.to_owned()),
        ("--rate", RATE.to_string()),
        ("--requests", REQUESTS.to_string()),
        ("--tokens", TOKENS.to_string()),
        ("--ttft-max-ms", TTFT_MAX.as_millis().to_string()),
    ] {
        command.args([flag, &value]);
    }
    Ok(serde_json::from_str(&shell::output(&mut command)?)?)
}

fn rows(told: &Value) -> Result<Vec<Row>> {
    let number = |value: &Value| value.as_f64().context("no such figure");
    let rest = GAP * (TOKENS - 1);
    let last_due = Duration::from_secs_f64(f64::from(REQUESTS - 1) / RATE);
    // The last of all is a late one.
    let seconds = (last_due + TTFT_LATE + rest).as_secs_f64();
    let in_time = f64::from(REQUESTS) * (1.0 - 1.0 / LATE_EVERY as f64);
    let ms = |name: &'static str, known: Duration, told: &Value| -> Result<Row> {
        Ok(Row {
            name,
            unit: "ms",
            known: known.as_secs_f64() * 1e3,
            told: number(told)? * 1e3,
        })
    };
    Ok(vec![
        ms("TTFT, p50", TTFT, &told["ttft"]["p50"])?,
        ms("TTFT, p90", TTFT_LATE, &told["ttft"]["p90"])?,
        ms("TPOT, p50", GAP, &told["tpot"]["p50"])?,
        ms("between pieces, p50", GAP, &told["gap"]["p50"])?,
        ms("whole answer, p50", TTFT + rest, &told["end_to_end"]["p50"])?,
        Row {
            name: "goodput",
            unit: "answers/s",
            known: in_time / seconds,
            told: number(&told["goodput"])?,
        },
    ])
}

fn page(rows: &[Row], load: &str) -> String {
    let mut text = format!(
        "# `sextant bench load` on a server that is known\n\n\
         Written by `cargo xtask bench simulated`. {REQUESTS} requests, {RATE} a second in even \
         steps, to a server whose first token\ncomes after {} ms, of every {LATE_EVERY}th answer \
         after {} ms, and further ones every {} ms; promised are {} ms.\n\n\
         | figure | known | told | off by |\n|---|---:|---:|---:|\n",
        TTFT.as_millis(),
        TTFT_LATE.as_millis(),
        GAP.as_millis(),
        TTFT_MAX.as_millis()
    );
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.2} {} | {:.2} | {:+.2} % |",
            row.name,
            row.known,
            row.unit,
            row.told,
            100.0 * row.error()
        );
    }
    let _ = write!(
        text,
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n| load average before | {load} |\n\
         | Sextant | {} |\n",
        machine::cpu(),
        env!("CARGO_PKG_VERSION")
    );
    text
}

/// A thread for each connection, until the program ends.
fn serve(listener: &TcpListener) {
    let n_asked = Arc::new(AtomicUsize::new(0));
    for socket in listener.incoming().flatten() {
        let n_asked = Arc::clone(&n_asked);
        std::thread::spawn(move || {
            // A client that has gone is no fault of ours.
            let _ = connection(socket, &n_asked);
        });
    }
}

fn connection(socket: TcpStream, n_asked: &AtomicUsize) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut socket = socket;
    while let Some(path) = request(&mut reader)? {
        match path.as_str() {
            "/v1/chat/completions" => {
                let place = n_asked.fetch_add(1, Ordering::Relaxed);
                answer(&mut socket, (place + 1).is_multiple_of(LATE_EVERY))?;
            }
            _ => {
                let models = json!({
                    "object": "list",
                    "data": [{ "id": MODEL, "object": "model", "created": 0, "owned_by": "nobody" }],
                });
                let body = models.to_string();
                write!(
                    socket,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )?;
            }
        }
    }
    Ok(())
}

/// The path of the next request, whose body is read and dropped; `None` after the last.
fn request(reader: &mut BufReader<TcpStream>) -> Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).context("no request")?.to_owned();
    let mut length = 0;
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let Some((name, value)) = field.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(path))
}

fn answer(socket: &mut TcpStream, is_late: bool) -> Result<()> {
    let started = Instant::now();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                transfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes())?;
    // A role says nothing yet.
    event(socket, &delta(&json!({ "role": "assistant" })))?;
    let first = if is_late { TTFT_LATE } else { TTFT };
    for token in 0..TOKENS {
        let due = first + GAP * token;
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        event(socket, &delta(&json!({ "content": "word " })))?;
    }
    let usage =
        json!({ "prompt_tokens": 8, "completion_tokens": TOKENS, "total_tokens": TOKENS + 8 });
    event(
        socket,
        &json!({ "choices": [], "usage": usage }).to_string(),
    )?;
    event(socket, "[DONE]")?;
    Ok(socket.write_all(b"0\r\n\r\n")?)
}

fn delta(delta: &Value) -> String {
    json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }).to_string()
}

fn event(socket: &mut TcpStream, data: &str) -> Result<()> {
    let event = format!("data: {data}\n\n");
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    Ok(socket.write_all(chunk.as_bytes())?)
}
