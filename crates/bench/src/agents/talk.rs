//! Our own agent: a conversation that goes on while the model calls tools.
//!
//! It is small on purpose, so that what is compared are models: no plan, no memory, no edits by
//! search. [`Talk::request`] gives what to ask, [`Talk::take`] takes what came and says what to
//! do, and [`Talk::give`] takes what tools have said.

use std::time::Duration;

use serde_json::{Value, json};

use super::tools::{self, Use};
use super::{Calls, Ended};
use crate::quality::{Answer, Answered, Call, Came, Fault, is_intercepted, of_error};

const SYSTEM: &str = "You are a coding agent. You work on the files of the current folder with \
the tools that you have, and with nothing else. Look before you change, write whole files, and run \
the tests after each change. When the task is done, say so in one sentence and call no tool.";

/// How far a conversation may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Answers of the model.
    pub turns: usize,
    /// Tokens of one answer.
    pub turn_tokens: u64,
    /// Tokens of all answers, as the server counts them.
    pub tokens: u64,
    /// Calls of one answer that are carried out.
    pub turn_calls: usize,
    /// Bytes of what a tool says that the model is shown.
    pub output_bytes: usize,
    /// How often in a row a request is made again.
    pub retries: usize,
    /// Before the first of them; doubled each time.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            turns: 24,
            turn_tokens: 2048,
            tokens: 16_384,
            turn_calls: 8,
            output_bytes: 8 << 10,
            retries: 2,
            pause: Duration::from_millis(500),
        }
    }
}

/// A call that is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    id: String,
    pub what: Use,
}

/// What is to be done before [`Talk::request`] is asked again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Nothing,
    Wait(Duration),
    /// Carry these out, in order, and give what they say.
    Use(Vec<Wanted>),
}

/// A conversation, and what it came to so far.
#[derive(Debug, Clone)]
pub struct Talk {
    limits: Limits,
    model: String,
    seed: u64,
    tools: Value,
    messages: Vec<Value>,
    /// Tokens that the last request allowed.
    asked_tokens: u64,
    retries_in_row: usize,
    n_calls_given: usize,
    /// The last answer.
    pub answer: Option<Answer>,
    pub ended: Option<Ended>,
    pub fault: Option<Fault>,
    /// Seconds of each answer.
    pub turn_seconds: Vec<f64>,
    pub calls: Calls,
    /// As the server counts them; `None` where it has not once done so.
    pub n_prompt: Option<u64>,
    pub n_answer: Option<u64>,
    pub n_retries: u64,
    /// Of the last error.
    pub error: Option<String>,
}

impl Talk {
    #[must_use]
    pub fn new(model: &str, prompt: &str, seed: u64, limits: Limits) -> Self {
        Self {
            limits,
            model: model.to_owned(),
            seed,
            tools: tools::offered(),
            messages: vec![
                json!({ "role": "system", "content": SYSTEM }),
                json!({ "role": "user", "content": prompt }),
            ],
            asked_tokens: 0,
            retries_in_row: 0,
            n_calls_given: 0,
            answer: None,
            ended: None,
            fault: None,
            turn_seconds: Vec::new(),
            calls: Calls::default(),
            n_prompt: None,
            n_answer: None,
            n_retries: 0,
            error: None,
        }
    }

    /// What the model is to be asked; `None` once the conversation has ended.
    pub fn request(&mut self) -> Option<Value> {
        let left = self
            .limits
            .tokens
            .saturating_sub(self.n_answer.unwrap_or(0));
        if self.ended.is_none() && self.turn_seconds.len() >= self.limits.turns {
            self.ended = Some(Ended::Steps);
        }
        if self.ended.is_none() && left == 0 {
            self.ended = Some(Ended::Tokens);
        }
        if self.ended.is_some() {
            return None;
        }
        self.asked_tokens = self.limits.turn_tokens.min(left);
        Some(json!({
            "model": self.model,
            "messages": self.messages,
            "tools": self.tools,
            "max_tokens": self.asked_tokens,
            "seed": self.seed,
        }))
    }

    /// Takes what came of the request after so many seconds.
    pub fn take(&mut self, came: Came, seconds: f64) -> Next {
        match came {
            Came::Late => {
                self.fault = Some(Fault::Late);
                self.ended = Some(Ended::Time);
                Next::Nothing
            }
            Came::Unreachable(why) => self.failed(Fault::Unreachable, why, true),
            Came::Refused {
                status,
                code,
                message,
            } => {
                let fault = of_error(status, &format!("{code} {message}"));
                let passes = fault == Fault::Busy || status >= 500;
                self.failed(fault, format!("HTTP {status}: {message}"), passes)
            }
            Came::Answered(answered) => self.answered(answered, seconds),
        }
    }

    /// Takes what a tool has said.
    pub fn give(&mut self, wanted: &Wanted, output: &str) {
        self.tool_message(&wanted.id, output);
    }

    fn tool_message(&mut self, id: &str, text: &str) {
        let text = clip(text, self.limits.output_bytes);
        let message = json!({ "role": "tool", "tool_call_id": id, "content": text });
        self.messages.push(message);
    }

    fn failed(&mut self, fault: Fault, error: String, passes: bool) -> Next {
        self.error = Some(error);
        if passes && self.retries_in_row < self.limits.retries {
            let times = 1_u32 << self.retries_in_row.min(16);
            self.retries_in_row += 1;
            self.n_retries += 1;
            return Next::Wait(self.limits.pause * times);
        }
        // What was said once fits no more: the conversation has grown over the context.
        let has_grown = fault == Fault::ContextTooSmall && !self.turn_seconds.is_empty();
        self.end(match has_grown {
            true => Ended::Context,
            false => Ended::Fault,
        });
        if !has_grown {
            self.fault = Some(fault);
        }
        Next::Nothing
    }

    fn answered(&mut self, answered: Answered, seconds: f64) -> Next {
        let texts = self
            .messages
            .iter()
            .filter_map(|one| one["content"].as_str());
        let n_chars = match self.turn_seconds.is_empty() {
            true => texts.map(|text| text.chars().count() as u64).sum(),
            // Some engines count only what was not in their cache.
            false => 0,
        };
        if is_intercepted(&answered, &self.model, n_chars) {
            self.fault = Some(Fault::Intercepted);
            self.end(Ended::Fault);
            return Next::Nothing;
        }
        self.retries_in_row = 0;
        self.turn_seconds.push(seconds);
        add(&mut self.n_prompt, answered.n_prompt);
        add(&mut self.n_answer, answered.n_answer);
        if answered.answer.has_leaked_thought() {
            self.fault = Some(Fault::LeakedThought);
        }
        let next = match answered.answer.calls.is_empty() {
            true => {
                self.said(&answered);
                Next::Nothing
            }
            false => self.called(&answered.answer),
        };
        self.answer = Some(answered.answer);
        next
    }

    /// An answer without a call is the last.
    fn said(&mut self, answered: &Answered) {
        let is_cut = answered.finish == "length";
        let is_short = answered.n_answer.is_some_and(|n| n < self.asked_tokens);
        let is_first = self.turn_seconds.len() == 1;
        match (is_cut && is_short, is_first) {
            (true, true) => {
                self.fault = Some(Fault::ContextTooSmall);
                self.end(Ended::Fault);
            }
            (true, false) => self.end(Ended::Context),
            (false, _) if is_cut => self.end(Ended::Tokens),
            (false, _) => self.end(Ended::Done),
        }
        let text = &answered.answer.text;
        let tools = self.tools.as_array().into_iter().flatten();
        let mut names = tools.filter_map(|tool| tool["function"]["name"].as_str());
        let is_call = names.any(|name| text.contains(name)) && text.contains(['{', '(']);
        if self.fault.is_none() && self.calls.all() == 0 && is_call {
            self.fault = Some(Fault::LeakedCall);
        }
    }

    fn called(&mut self, answer: &Answer) -> Next {
        let calls: Vec<(String, &Call)> = answer
            .calls
            .iter()
            .map(|call| {
                self.n_calls_given += 1;
                (format!("call_{}", self.n_calls_given), call)
            })
            .collect();
        let sent: Vec<Value> = calls.iter().map(|(id, call)| sent_back(id, call)).collect();
        self.messages.push(json!({
            "role": "assistant",
            "content": answer.without_thoughts().trim(),
            "tool_calls": sent,
        }));
        let mut wanted = Vec::new();
        for (number, (id, call)) in calls.into_iter().enumerate() {
            let (found, worth) = tools::asked(call, &self.tools);
            self.calls += worth;
            match found {
                Ok(_) if number >= self.limits.turn_calls => {
                    let most = self.limits.turn_calls;
                    let text = format!("not done: an answer may have {most} calls at most");
                    self.tool_message(&id, &text);
                }
                Ok(what) => wanted.push(Wanted { id, what }),
                Err(why) => self.tool_message(&id, &format!("error: {why}")),
            }
        }
        Next::Use(wanted)
    }

    /// The first end stays.
    pub fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }
}

/// Engines that parse arguments when they render a prompt fail on those that are no object.
fn sent_back(id: &str, call: &Call) -> Value {
    let arguments = match call.arguments.is_object() {
        true => call.arguments.to_string(),
        false => "{}".to_owned(),
    };
    let function = json!({ "name": call.name, "arguments": arguments });
    json!({ "id": id, "type": "function", "function": function })
}

pub(super) fn add(sum: &mut Option<u64>, more: Option<u64>) {
    if let Some(more) = more {
        *sum = Some(sum.unwrap_or(0) + more);
    }
}

/// The beginning and the end of a text that is too long, with what was left out told between.
fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let head = &text[..text.floor_char_boundary(bytes_max / 2)];
    let tail = &text[text.ceil_char_boundary(text.len() - bytes_max / 2)..];
    let n_out = text.len() - head.len() - tail.len();
    format!("{head}\n[{n_out} bytes are left out here]\n{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(calls: &[(&str, Value)], text: &str) -> Answered {
        let calls = calls.iter().map(|(name, arguments)| Call {
            name: (*name).to_owned(),
            arguments: arguments.clone(),
        });
        Answered {
            answer: Answer {
                text: text.into(),
                calls: calls.collect(),
            },
            finish: "stop".into(),
            model: "m".into(),
            n_prompt: Some(400),
            n_answer: Some(20),
        }
    }

    fn talk() -> Talk {
        Talk::new("m", "Repair it.", 7, Limits::default())
    }

    fn refused(status: u16, message: &str) -> Came {
        Came::Refused {
            status,
            code: String::new(),
            message: message.into(),
        }
    }

    #[test]
    fn a_conversation_goes_on_while_tools_are_called() {
        let mut talk = talk();
        assert_eq!(
            talk.request().unwrap()["messages"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let calls = [
            ("read_file", json!({ "path": "a.py" })),
            ("read_file", json!({ "path": "../a.py" })),
            ("run_tests", json!("now")),
        ];
        let Next::Use(wanted) = talk.take(Came::Answered(answered(&calls, "")), 2.0) else {
            panic!("nothing is to be carried out");
        };
        let read = Use::Read {
            path: "a.py".into(),
        };
        assert_eq!((wanted.len(), &wanted[0].what), (1, &read));
        talk.give(&wanted[0], &"x".repeat(100_000));
        let request = talk.request().unwrap();
        let messages = request["messages"].as_array().unwrap();
        assert_eq!(messages.len(), 6);
        // Every call has its answer, and what was malformed is sent back as an object.
        let ids = |at: usize| messages[at]["tool_call_id"].as_str().unwrap();
        for call in messages[2]["tool_calls"].as_array().unwrap() {
            let id = call["id"].as_str().unwrap();
            assert!((3..6).any(|at| ids(at) == id), "{id}");
            let arguments = call["function"]["arguments"].as_str().unwrap();
            assert!(
                serde_json::from_str::<Value>(arguments)
                    .unwrap()
                    .is_object()
            );
        }
        let shown = messages[5]["content"].as_str().unwrap();
        assert!(shown.len() < 9000 && shown.contains("91808 bytes are left out"));
        assert_eq!(
            talk.take(Came::Answered(answered(&[], "Done.")), 1.0),
            Next::Nothing
        );
        assert_eq!((talk.request(), talk.ended), (None, Some(Ended::Done)));
        let calls = Calls {
            right: 1,
            wrong: 1,
            malformed: 1,
        };
        assert_eq!((talk.calls, talk.fault), (calls, None));
        assert_eq!((talk.n_prompt, talk.n_answer), (Some(800), Some(40)));
        assert_eq!(talk.turn_seconds, [2.0, 1.0]);
    }

    #[test]
    fn each_limit_ends_it() {
        let test = || Came::Answered(answered(&[("run_tests", json!({}))], ""));
        let mut many = talk();
        for _ in 0..Limits::default().turns {
            many.request().unwrap();
            many.take(test(), 1.0);
        }
        assert_eq!((many.request(), many.ended), (None, Some(Ended::Steps)));

        let limits = Limits {
            tokens: 50,
            ..Limits::default()
        };
        let mut long = Talk::new("m", "Repair it.", 7, limits);
        for allowed in [50, 30, 10] {
            assert_eq!(long.request().unwrap()["max_tokens"], allowed);
            long.take(test(), 1.0);
        }
        assert_eq!((long.request(), long.ended), (None, Some(Ended::Tokens)));

        let mut late = talk();
        late.request();
        late.take(Came::Late, 300.0);
        assert_eq!((late.request(), late.ended), (None, Some(Ended::Time)));

        let mut eager = talk();
        eager.request();
        let calls = vec![("run_tests", json!({})); 20];
        let Next::Use(wanted) = eager.take(Came::Answered(answered(&calls, "")), 1.0) else {
            panic!("nothing is to be carried out");
        };
        assert_eq!(wanted.len(), Limits::default().turn_calls);
        assert_eq!(eager.calls.right, 20);
    }

    #[test]
    fn faults_of_the_pipeline_end_it_as_such() {
        let unread = Answered {
            n_prompt: Some(1),
            ..answered(&[], "Done.")
        };
        let other = Answered {
            model: "router".into(),
            ..answered(&[], "Done.")
        };
        let cut = Answered {
            finish: "length".into(),
            ..answered(&[], "Well")
        };
        for (came, fault, times) in [
            (Came::Unreachable("refused".into()), Fault::Unreachable, 3),
            (refused(503, "Loading model"), Fault::Busy, 3),
            (refused(502, "bad gateway"), Fault::Refused, 3),
            (refused(400, "no such field"), Fault::Refused, 1),
            (
                refused(400, "m does not support tools"),
                Fault::ToolsRefused,
                1,
            ),
            (
                refused(400, "exceeds the context size"),
                Fault::ContextTooSmall,
                1,
            ),
            (Came::Answered(other), Fault::Intercepted, 1),
            (Came::Answered(unread), Fault::Intercepted, 1),
            (Came::Answered(cut), Fault::ContextTooSmall, 1),
        ] {
            let mut talk = talk();
            let shown = format!("{came:?}");
            let mut asked = 0;
            while talk.request().is_some() {
                talk.take(came.clone(), 1.0);
                asked += 1;
            }
            assert_eq!(
                (talk.ended, talk.fault),
                (Some(Ended::Fault), Some(fault)),
                "{shown}"
            );
            assert_eq!(
                (asked, talk.n_retries),
                (times, times as u64 - 1),
                "{shown}"
            );
        }
    }

    #[test]
    fn what_grows_over_the_context_is_the_conversations() {
        let full = refused(400, "the request exceeds the context size");
        let cut = Came::Answered(Answered {
            finish: "length".into(),
            ..answered(&[], "Well")
        });
        for last in [full, cut] {
            let mut talk = talk();
            talk.request();
            talk.take(
                Came::Answered(answered(&[("run_tests", json!({}))], "")),
                1.0,
            );
            talk.request();
            talk.take(last, 1.0);
            assert_eq!((talk.ended, talk.fault), (Some(Ended::Context), None));
        }
    }

    #[test]
    fn a_call_in_the_text_is_told_and_not_taken() {
        let mut talk = talk();
        talk.request();
        let text = "{\"name\": \"run_tests\", \"arguments\": {}}";
        talk.take(Came::Answered(answered(&[], text)), 1.0);
        assert_eq!(
            (talk.ended, talk.fault),
            (Some(Ended::Done), Some(Fault::LeakedCall))
        );
    }

    #[test]
    fn pauses_grow_and_an_answer_ends_their_row() {
        let mut talk = talk();
        let busy = || refused(503, "Loading model");
        let pause = Limits::default().pause;
        talk.request();
        assert_eq!(talk.take(busy(), 0.1), Next::Wait(pause));
        assert_eq!(talk.take(busy(), 0.1), Next::Wait(2 * pause));
        talk.take(
            Came::Answered(answered(&[("run_tests", json!({}))], "")),
            1.0,
        );
        assert_eq!(talk.take(busy(), 0.1), Next::Wait(pause));
        assert_eq!((talk.ended, talk.n_retries), (None, 3));
    }
}
