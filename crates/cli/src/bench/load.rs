//! `sextant bench load`: many requests at once, as people or agents would send them.
//!
//! With a file a run that has ended is not made again; one that was stopped begins anew, since its
//! requests are one measurement.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bench::latency::{Brought, Latency, Objective, Stream};
use bench::load::{Arrivals, Percentiles, Prompts, Report, Served};
use clap::ArgMatches;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use serde_json::{Value, json};

use super::attempts_file::{Kind, Log};
use super::load_lines::{Ended, Heading, Last, Request, Run, VERSION};
use super::origin::{self, Origin, OriginLine};
use super::results::{Finished, Keeping};
use crate::http::{Lines, Server};
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{configuration, tune};

/// Requests of an open loop that are under way at once; further ones fail, and say so.
const UNDER_WAY_MAX: usize = 4096;

struct Load {
    server: Server,
    model: String,
    prompts: Prompts,
    n: usize,
    tokens_max: u64,
    time_max: Duration,
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let server = Server::new(matches, &config)?;
    let wanted = matches.get_one::<String>("model");
    let model = runtime.block_on(server.model(wanted.map_or("", String::as_str)))?;
    let heading = heading(matches, &server, model)?;
    let objective = objective(matches);
    let keeping = Keeping::begin(matches, &config)?;
    let file = matches.get_one::<PathBuf>("out").map(PathBuf::as_path);
    let (mut log, requests) = Log::open(file, &heading)?;
    let there = Run::of(requests, log.read());
    let load = Load::of(server, &heading);
    let run = match there {
        Some(there) => {
            say(&format!(
                "{} requests are there already",
                there.served.len()
            ));
            Run {
                ended: Ended::new(there.ended.seconds, &objective),
                ..there
            }
        }
        None => {
            log.clear()?;
            runtime.block_on(load.measure(heading.arrivals(), &objective, &mut log))?
        }
    };
    let report = run.report();
    match output::wants_json(matches) {
        true => output::json(&as_json(&report, heading.arrivals(), log.read().first()))?,
        false => {
            write(&report, &objective)?;
            tell_failures(&run.served);
        }
    }
    keeping.keep(Finished {
        kind: Kind::Load,
        server: Some(heading.server),
        models: origin::models(&log, &[heading.model]),
        log: &log,
    })
}

fn heading(matches: &ArgMatches, server: &Server, model: String) -> Outcome<Heading> {
    let number = |name: &str| matches.get_one::<u64>(name).copied().unwrap_or(0);
    let rate = matches.get_one::<f64>("rate").copied();
    if rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(fault(
            Code::Usage,
            "--rate must be above 0 requests a second",
        ));
    }
    Ok(Heading {
        version: VERSION,
        server: server.base().to_owned(),
        model,
        requests: number("requests"),
        clients: rate.is_none().then(|| number("clients")),
        requests_per_second: rate,
        is_even: matches.get_flag("even"),
        prompt_words: number("prompt-words"),
        shared_words: number("shared-words"),
        tokens_max: number("tokens"),
        seconds_max: number("seconds"),
        seed: number("seed"),
    })
}

fn objective(matches: &ArgMatches) -> Objective {
    let seconds = |name: &str| matches.get_one::<f64>(name).map(|ms| ms / 1000.0);
    Objective {
        ttft_max: seconds("ttft-max-ms"),
        tpot_max: seconds("tpot-max-ms"),
        end_to_end_max: seconds("total-max-ms"),
    }
}

pub(super) fn words(arrivals: Arrivals) -> String {
    match arrivals {
        Arrivals::Closed { clients } => format!("by {clients} clients, one after another each"),
        Arrivals::Poisson { per_second } => format!("{per_second} a second by chance"),
        Arrivals::Even { per_second } => format!("{per_second} a second in even steps"),
    }
}

impl Load {
    fn of(server: Server, heading: &Heading) -> Self {
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            server,
            model: heading.model.clone(),
            prompts: Prompts {
                words: count(heading.prompt_words),
                shared: count(heading.shared_words),
                seed: heading.seed,
            },
            n: count(heading.requests),
            tokens_max: heading.tokens_max,
            time_max: Duration::from_secs(heading.seconds_max),
        }
    }

    /// Sends all requests, and then says what came of them and on what.
    async fn measure(
        &self,
        arrivals: Arrivals,
        objective: &Objective,
        log: &mut Log,
    ) -> Outcome<Run> {
        say(&format!(
            "{} requests to {}, {}",
            self.n,
            self.model,
            words(arrivals)
        ));
        let started = Instant::now();
        let served = self.run(arrivals).await;
        let ended = Ended::new(started.elapsed().as_secs_f64(), objective);
        let origin = Origin::ask(&self.server, &self.model, tune::now_unix_secs()).await;
        let requests: Vec<Request> = served.iter().map(Request::of).collect();
        log.append(&origin.line())?;
        log.append_all(&requests)?;
        log.append(&Last {
            ended: ended.clone(),
        })?;
        Ok(Run { served, ended })
    }

    async fn run(&self, arrivals: Arrivals) -> Vec<Served> {
        let start = Instant::now();
        let requests = stream::iter(0..self.n);
        match (arrivals, arrivals.due(self.n, self.prompts.seed)) {
            (Arrivals::Closed { clients }, _) => {
                let each =
                    requests.map(|one| async move { self.request(one, Instant::now()).await });
                each.buffer_unordered(clients.max(1)).collect().await
            }
            (_, due) => {
                let mut under_way = FuturesUnordered::new();
                let mut served = Vec::new();
                for (one, due) in due.unwrap_or_default().into_iter().enumerate() {
                    let due = start + Duration::from_secs_f64(due);
                    let wait = tokio::time::sleep_until(due.into());
                    tokio::pin!(wait);
                    // Others are answered meanwhile.
                    loop {
                        tokio::select! {
                            () = &mut wait => break,
                            Some(done) = under_way.next() => served.push(done),
                        }
                    }
                    match under_way.len() < UNDER_WAY_MAX {
                        true => under_way.push(self.request(one, due)),
                        false => served.push(failed(format!(
                            "not sent: {UNDER_WAY_MAX} requests are under way"
                        ))),
                    }
                }
                served.extend(under_way.collect::<Vec<_>>().await);
                served
            }
        }
    }

    /// `due` is where its times start.
    async fn request(&self, one: usize, due: Instant) -> Served {
        let body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": self.prompts.text(one) }],
            "max_tokens": self.tokens_max,
            "stream": true,
            "stream_options": { "include_usage": true },
            // An answer of the full length is what is to be measured.
            "ignore_eos": true,
        });
        match tokio::time::timeout(self.time_max, self.stream(&body, due)).await {
            Ok(Ok(served)) => served,
            Ok(Err(why)) => failed(why),
            Err(_) => failed(format!("no end after {} s", self.time_max.as_secs())),
        }
    }

    async fn stream(&self, body: &Value, due: Instant) -> Result<Served, String> {
        let path = "/v1/chat/completions";
        let response = self.server.post_streaming(path, body).await;
        let mut chunks = response.map_err(|error| error.to_string())?.bytes_stream();
        let mut lines = Lines::default();
        let mut stream = Stream::default();
        let mut usage = Value::Null;
        while let Some(chunk) = chunks.next().await {
            let at = due.elapsed().as_secs_f64();
            let chunk = chunk.map_err(|error| error.to_string())?;
            for data in lines.feed(&chunk) {
                if data == "[DONE]" {
                    continue;
                }
                let value: Value =
                    serde_json::from_str(&data).map_err(|error| error.to_string())?;
                if let Some(error) = value["error"]["message"].as_str() {
                    return Err(error.to_owned());
                }
                stream
                    .events
                    .push((at, brought(&value["choices"][0]["delta"])));
                if value["usage"].is_object() {
                    usage = value["usage"].clone();
                }
            }
            stream.end = at;
        }
        let tokens = |value: &Value| {
            let n = value.as_u64().unwrap_or(0);
            usize::try_from(n).unwrap_or(usize::MAX)
        };
        stream.n_tokens = tokens(&usage["completion_tokens"]);
        match stream.n_tokens {
            0 => Err("the answer has no tokens, or no usage".to_owned()),
            n_answer => Ok(Served {
                latency: Ok(Latency::of(&stream)),
                n_prompt: tokens(&usage["prompt_tokens"]),
                n_cached: tokens(&usage["prompt_tokens_details"]["cached_tokens"]),
                n_answer,
            }),
        }
    }
}

fn brought(delta: &Value) -> Brought {
    let is_there = |name: &str| match &delta[name] {
        Value::String(text) => !text.is_empty(),
        Value::Array(calls) => !calls.is_empty(),
        _ => false,
    };
    if is_there("content") || is_there("tool_calls") {
        Brought::Output
    } else if is_there("reasoning_content") || is_there("reasoning") {
        Brought::Reasoning
    } else {
        Brought::Nothing
    }
}

const fn failed(why: String) -> Served {
    Served {
        latency: Err(why),
        n_prompt: 0,
        n_cached: 0,
        n_answer: 0,
    }
}

fn as_json(report: &Report, arrivals: Arrivals, origin: Option<&OriginLine>) -> Value {
    let clients = match arrivals {
        Arrivals::Closed { clients } => Some(clients),
        Arrivals::Poisson { .. } | Arrivals::Even { .. } => None,
    };
    let times = |of: Percentiles| json!({ "p50": of.p50, "p90": of.p90, "p99": of.p99 });
    json!({
        "clients": clients,
        "origin": origin.map(|line| &line.origin),
        "n": report.n,
        "n_failed": report.n_failed,
        "seconds": report.seconds,
        "answers_per_second": report.answers_per_second,
        "tokens_per_second": report.tokens_per_second,
        "ttft": times(report.ttft),
        "tpot": times(report.tpot),
        "gap": times(report.gap),
        "end_to_end": times(report.end_to_end),
        "n_prompt": report.n_prompt,
        "n_cached": report.n_cached,
        "n_answer": report.n_answer,
        "goodput": report.goodput,
    })
}

fn write(report: &Report, objective: &Objective) -> Outcome {
    for line in told(report, objective) {
        output::line(&line)?;
    }
    output::table(&HEAD, &rows(report))?;
    Ok(())
}

/// In sentences.
pub(super) fn told(report: &Report, objective: &Objective) -> Vec<String> {
    let mut lines = vec![
        format!(
            "{} answers in {:.1} s, {} failed: {:.2} a second, {:.1} tokens/s",
            report.n - report.n_failed,
            report.seconds,
            report.n_failed,
            report.answers_per_second,
            report.tokens_per_second
        ),
        format!(
            "{} tokens of prompts, {} of them cached; {} tokens of answers",
            report.n_prompt, report.n_cached, report.n_answer
        ),
    ];
    if *objective != Objective::default() {
        lines.push(format!(
            "goodput: {:.2} answers a second keep what is promised",
            report.goodput
        ));
    }
    lines
}

/// Of [`rows`].
pub(super) const HEAD: [&str; 4] = ["MS", "P50", "P90", "P99"];

pub(super) fn rows(report: &Report) -> Vec<Vec<String>> {
    let ms = |seconds: f64| format!("{:.1}", seconds * 1000.0);
    let rows = [
        ("TTFT", report.ttft),
        ("TPOT", report.tpot),
        ("between pieces", report.gap),
        ("whole answer", report.end_to_end),
    ];
    rows.map(|(name, of)| vec![name.to_owned(), ms(of.p50), ms(of.p90), ms(of.p99)])
        .to_vec()
}

/// Each reason once.
fn tell_failures(served: &[Served]) {
    let mut told: Vec<(&str, usize)> = Vec::new();
    for why in served.iter().filter_map(|one| one.latency.as_ref().err()) {
        match told.iter_mut().find(|(text, _)| text == why) {
            Some((_, n)) => *n += 1,
            None => told.push((why, 1)),
        }
    }
    for (why, n) in told {
        say(&format!("{n} failed: {why}"));
    }
}
