//! `sextant logs`: the last lines of a running server's log, its engines' among them, and what is
//! known of those that tell of trouble.
//!
//! [`Reader`] chooses what is new and wanted, and is pure. Whoever follows asks for lines when
//! the server's stream of events says that there are more.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Deserialize;
use serde_json::{Value, json};
use stdx::rfc3339;
use tokio::runtime::Runtime;

use crate::bus::{self, Board, Told};
use crate::figures::inert;
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};
use crate::output::{self, say};
use crate::{args, audit, configuration, doctor};

/// As many lines as a server keeps (`gateway::LOG_LINES_MAX`).
const LINES_MAX: usize = gateway::LOG_LINES_MAX;
/// From the least to the most pressing.
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

pub(crate) fn command() -> Command {
    let command = Command::new("logs")
        .about("Print the log of the running server and its engines, and what is known of it")
        .args([
            Arg::new("follow")
                .short('f')
                .long("follow")
                .action(ArgAction::SetTrue)
                .help("Go on with what comes, also when the server was away"),
            Arg::new("level")
                .long("level")
                .value_name("LEVEL")
                .value_parser(LEVELS)
                .default_value(LEVELS[0])
                .help("Only lines of this level and above; below info are only engines' lines"),
            Arg::new("since")
                .long("since")
                .value_name("SPAN")
                .help("How far back: 90s, 15m, 1h, 7d [default: as far as the server keeps it]"),
            Arg::new("model")
                .long("model")
                .value_name("MODEL")
                .help("Only lines about this model"),
            Arg::new("lines")
                .short('n')
                .long("lines")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=LINES_MAX as u64))
                .help("Only the last so many of those, 4096 at most, which a server keeps"),
            args::json().help("Print a JSON object a line"),
        ]);
    args::to_server(command)
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Arc::new(Server::new(matches, &config)?);
    let reader = Reader::new(wanted(matches)?);
    let look = Look::new(matches);
    let runtime = Runtime::new()?;
    match matches.get_flag("follow") {
        true => runtime.block_on(follow(server, reader, look)),
        false => runtime.block_on(async {
            let mut reader = reader;
            look.print(&reader.take(page(&server, 0).await?)?)
        }),
    }
}

fn wanted(matches: &ArgMatches) -> Outcome<Wanted> {
    let level = matches.get_one::<String>("level");
    let lines = matches.get_one::<u64>("lines");
    Ok(Wanted {
        rank: level.map_or(0, |level| rank(level)),
        since_ms: match matches.get_one::<String>("since") {
            None => 0,
            Some(text) => audit::since_ms(text)?,
        },
        model: matches.get_one::<String>("model").cloned(),
        lines: lines.and_then(|lines| usize::try_from(*lines).ok()),
    })
}

/// The place of a level among all; one that is new is never left out.
fn rank(level: &str) -> usize {
    let known = LEVELS.iter().position(|known| *known == level);
    known.unwrap_or(LEVELS.len())
}

/// Lines after that number.
async fn page(server: &Server, after: u64) -> Outcome<Value> {
    let path = format!("/api/logs?after={after}&limit={LINES_MAX}");
    server.get(&path).await
}

async fn follow(server: Arc<Server>, mut reader: Reader, look: Look) -> Outcome {
    let mut told = bus::follow(Arc::clone(&server));
    let mut board = Board::default();
    let (mut is_known, mut is_lost) = (false, false);
    while let Some(one) = told.recv().await {
        match one {
            Told::Open if is_lost => {
                say("the server is back");
                is_lost = false;
            }
            Told::Open => {}
            Told::Restarted => reader.begin_anew(),
            Told::Lost(fault) if !is_known => return Err(fault),
            Told::Lost(_) if is_lost => {}
            Told::Lost(fault) => {
                say(&format!("the server is gone, trying again: {fault}"));
                is_lost = true;
            }
            Told::Refused(fault) => return Err(fault),
            Told::Event(event) => {
                board.take(event);
                is_known = true;
                if board.server.as_ref().is_some_and(|one| !one.may_manage) {
                    let message = "this API key may not read the log; one with the scope `admin` \
                                   may, which `sextant key add --scope admin` makes";
                    return Err(fault(Code::Failure, message));
                }
                if let Some(after) = reader.due(&board) {
                    match page(&server, after).await {
                        Ok(page) => look.print(&reader.take(page)?)?,
                        // The stream will say so, and when it is back.
                        Err(fault) if fault.code() == Code::NoServer => {}
                        Err(fault) => return Err(fault),
                    }
                }
            }
        }
    }
    Err(fault(Code::Failure, "the stream of events has ended"))
}

/// What is to be printed.
#[derive(Debug, Clone, Default, PartialEq)]
struct Wanted {
    /// Of the least level.
    rank: usize,
    /// Milliseconds since 1970.
    since_ms: u64,
    model: Option<String>,
    /// The last so many of the first answer.
    lines: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Line {
    number: u64,
    at_ms: u64,
    level: String,
    source: String,
    model: Option<String>,
    text: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Diagnosis {
    number: u64,
    at_ms: u64,
    model: Option<String>,
    times: u32,
    finding: Finding,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Finding {
    code: String,
    severity: String,
    what: String,
    fix: String,
}

/// Something to print, and as it was sent.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Line(Line, Value),
    Diagnosis(Diagnosis, Value),
}

/// What of the log was read.
#[derive(Debug, Default)]
struct Reader {
    wanted: Wanted,
    /// The number of the last line that was read.
    next: u64,
    /// The last line of each diagnosis that was told, by its code and model.
    told: BTreeMap<(String, Option<String>), u64>,
}

impl Reader {
    fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Another process counts its lines from the beginning.
    fn begin_anew(&mut self) {
        self.next = 0;
        self.told.clear();
    }

    /// After which line to read, where there is something to read.
    fn due(&self, board: &Board) -> Option<u64> {
        let log = board.log.as_ref()?;
        (log.latest > self.next).then_some(self.next)
    }

    /// What of an answer is new and wanted: lines, then what is known of them.
    fn take(&mut self, mut page: Value) -> Outcome<Vec<Said>> {
        self.next = page["next"].as_u64().unwrap_or(self.next);
        let mut said = Vec::new();
        for raw in all(&mut page, "lines") {
            let line: Line = serde_json::from_value(raw.clone())?;
            let is_loud = rank(&line.level) >= self.wanted.rank;
            if is_loud && self.wants(line.at_ms, line.model.as_deref()) {
                said.push(Said::Line(line, raw));
            }
        }
        if let Some(most) = self.wanted.lines.take() {
            said.drain(..said.len().saturating_sub(most));
        }
        // The latest is first; below the lines it stands last.
        for raw in all(&mut page, "diagnoses").into_iter().rev() {
            let diagnosis: Diagnosis = serde_json::from_value(raw.clone())?;
            let key = (diagnosis.finding.code.clone(), diagnosis.model.clone());
            let is_new = self.told.get(&key) < Some(&diagnosis.number);
            if is_new && self.wants(diagnosis.at_ms, diagnosis.model.as_deref()) {
                self.told.insert(key, diagnosis.number);
                said.push(Said::Diagnosis(diagnosis, raw));
            }
        }
        Ok(said)
    }

    fn wants(&self, at_ms: u64, model: Option<&str>) -> bool {
        let wanted = self.wanted.model.as_deref();
        at_ms >= self.wanted.since_ms && wanted.is_none_or(|wanted| model == Some(wanted))
    }
}

fn all(page: &mut Value, list: &str) -> Vec<Value> {
    match page.get_mut(list).map(Value::take) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    }
}

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Json,
    Plain,
    Coloured,
}

impl Look {
    fn new(matches: &ArgMatches) -> Self {
        let has_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if output::wants_json(matches) {
            Self::Json
        } else if has_colour && stdout().is_terminal() {
            Self::Coloured
        } else {
            Self::Plain
        }
    }

    fn print(self, said: &[Said]) -> Outcome {
        for one in said {
            match (one, self) {
                (Said::Line(_, raw), Self::Json) => output::line(&typed("line", raw))?,
                (Said::Diagnosis(_, raw), Self::Json) => {
                    output::line(&typed("diagnosis", raw))?;
                }
                (Said::Line(line, _), look) => output::line(&look.text(line))?,
                (Said::Diagnosis(diagnosis, _), _) => say(&told(diagnosis)),
            }
        }
        Ok(())
    }

    fn text(self, line: &Line) -> String {
        let colour = match (self, line.level.as_str()) {
            (Self::Coloured, "error") => ["\x1b[31m", "\x1b[0m"],
            (Self::Coloured, "warn") => ["\x1b[33m", "\x1b[0m"],
            (Self::Coloured, "debug") => ["\x1b[2m", "\x1b[0m"],
            _ => ["", ""],
        };
        let level = inert(&line.level).to_uppercase();
        let model = line
            .model
            .as_deref()
            .map(|model| format!(" [{}]", inert(model)));
        format!(
            "{} {}{level:<5}{} {}{}: {}",
            moment(line.at_ms),
            colour[0],
            colour[1],
            inert(&line.source),
            model.unwrap_or_default(),
            inert(&line.text)
        )
    }
}

/// RFC 3339 with milliseconds, UTC.
fn moment(at_ms: u64) -> String {
    let seconds = rfc3339(at_ms / 1000);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), at_ms % 1000)
}

/// What was sent, with what it is.
fn typed(kind: &str, raw: &Value) -> String {
    let mut object = json!({ "type": kind });
    if let (Some(object), Some(fields)) = (object.as_object_mut(), raw.as_object()) {
        object.extend(fields.clone());
    }
    object.to_string()
}

fn told(diagnosis: &Diagnosis) -> String {
    let finding = &diagnosis.finding;
    let model = diagnosis.model.as_deref();
    let of = model.map_or_else(String::new, |model| format!("{}: ", inert(model)));
    let times = match diagnosis.times {
        0 | 1 => String::new(),
        n => format!(" ({n} times)"),
    };
    let what = format!("{of}{}{times}", inert(&finding.what));
    let words = [&finding.severity, &what, &finding.code, &finding.fix];
    doctor::report::line(words.map(|word| inert(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::fields_of;

    fn line(number: u64, level: &str, model: Option<&str>) -> Value {
        json!({ "number": number, "at_ms": number * 1000, "level": level, "source": "engine",
            "model": model, "text": format!("line {number}") })
    }

    fn diagnosis(number: u64, model: &str) -> Value {
        json!({ "number": number, "at_ms": number * 1000, "model": model, "times": 2,
            "finding": { "code": "oom", "severity": "fault", "class": "runtime",
                "what": "no memory", "fix": "less of it" } })
    }

    fn page(lines: Vec<Value>, diagnoses: Vec<Value>) -> Value {
        let next = lines
            .last()
            .map_or(0, |line| line["number"].as_u64().unwrap());
        json!({ "lines": lines, "next": next, "diagnoses": diagnoses })
    }

    fn numbers(said: &[Said]) -> Vec<String> {
        let each = said.iter().map(|one| match one {
            Said::Line(line, _) => line.number.to_string(),
            Said::Diagnosis(one, _) => format!("d{}", one.number),
        });
        each.collect()
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let all = || {
            page(
                vec![
                    line(1, "error", None),
                    line(2, "debug", Some("a")),
                    line(3, "warn", Some("a")),
                    line(4, "info", Some("b")),
                    line(5, "novel", Some("b")),
                ],
                vec![diagnosis(4, "b"), diagnosis(3, "a")],
            )
        };
        let cases = [
            (Wanted::default(), "1 2 3 4 5 d3 d4"),
            (
                Wanted {
                    rank: rank("warn"),
                    ..Wanted::default()
                },
                "1 3 5 d3 d4",
            ),
            (
                Wanted {
                    since_ms: 4000,
                    ..Wanted::default()
                },
                "4 5 d4",
            ),
            (
                Wanted {
                    model: Some("a".into()),
                    ..Wanted::default()
                },
                "2 3 d3",
            ),
            (
                Wanted {
                    rank: rank("info"),
                    lines: Some(2),
                    ..Wanted::default()
                },
                "4 5 d3 d4",
            ),
        ];
        for (wanted, want) in cases {
            let said = Reader::new(wanted.clone()).take(all()).unwrap();
            assert_eq!(numbers(&said).join(" "), want, "{wanted:?}");
        }
    }

    #[test]
    fn a_diagnosis_is_told_again_when_a_new_line_says_it() {
        let mut reader = Reader::default();
        let mut take = |lines, number| {
            let page = page(lines, vec![diagnosis(number, "a")]);
            numbers(&reader.take(page).unwrap()).join(" ")
        };
        assert_eq!(take(vec![line(1, "warn", Some("a"))], 1), "1 d1");
        assert_eq!(take(vec![line(2, "info", None)], 1), "2");
        assert_eq!(take(vec![line(3, "warn", Some("a"))], 3), "3 d3");
    }

    #[test]
    fn lines_are_asked_for_where_there_are_more_and_anew_of_another_process() {
        let mut reader = Reader::default();
        let board = |latest: u64| {
            let mut board = Board::default();
            let log = json!({ "key": "log", "state": { "kind": "log", "latest": latest } });
            let event = json!({ "type": "snapshot", "entries": [log] });
            board.take(serde_json::from_value(event).unwrap());
            board
        };
        assert_eq!(reader.due(&Board::default()), None);
        assert_eq!(reader.due(&board(0)), None);
        assert_eq!(reader.due(&board(3)), Some(0));
        let answer = page(vec![line(3, "info", None)], vec![diagnosis(3, "a")]);
        assert_eq!(numbers(&reader.take(answer.clone()).unwrap()), ["3", "d3"]);
        assert_eq!(reader.due(&board(3)), None);
        assert_eq!(reader.due(&board(4)), Some(3));
        reader.begin_anew();
        assert_eq!(reader.due(&board(3)), Some(0));
        assert_eq!(numbers(&reader.take(answer).unwrap()), ["3", "d3"]);
    }

    #[test]
    fn lines_stand_in_one_line_and_do_nothing_to_a_terminal() {
        let evil = Line {
            at_ms: 1_795_413_600_042,
            level: "warn".into(),
            source: "engine".into(),
            model: Some("a\u{1b}[1m".into()),
            text: "x\u{1b}[2Jy\nz".into(),
            ..Line::default()
        };
        let text = Look::Plain.text(&evil);
        insta::assert_snapshot!(text, @"2026-11-23T06:00:00.042Z WARN  engine [a·[1m]: x·[2Jy·z");
        assert!(Look::Coloured.text(&evil).contains("\u{1b}[33mWARN "));
        let raw = json!({ "number": 1, "text": "a\nb" });
        assert_eq!(
            typed("line", &raw),
            r#"{"type":"line","number":1,"text":"a\nb"}"#
        );
    }

    #[test]
    fn every_field_is_one_that_the_server_sends() {
        let description: Value = serde_json::from_str(&gateway::openapi_json()).unwrap();
        let schemas = &description["components"]["schemas"];
        for (schema, fields) in [
            ("LogEntry", fields_of::<Line>()),
            ("LogDiagnosis", fields_of::<Diagnosis>()),
            ("DoctorFinding", fields_of::<Finding>()),
        ] {
            for field in fields {
                let sent = &schemas[schema]["properties"][*field];
                assert!(sent.is_object(), "{schema} has no `{field}`");
            }
        }
        for field in ["lines", "next", "diagnoses"] {
            assert!(
                schemas["LogPage"]["properties"][field].is_object(),
                "{field}"
            );
        }
    }
}
