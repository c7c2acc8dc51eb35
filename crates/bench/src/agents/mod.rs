//! Tasks for models that use tools, and for coding agents, judged by what they leave behind.
//!
//! A task is a file of data. Some want one native call, whose name and arguments are checked. The
//! others are small repositories whose tests fail; whether one is repaired say its tests, restored to what
//! they were, and calls of its functions that the agent has not seen ([`Repair`]). What an agent
//! says of itself, and how it ends, counts for nothing.
//!
//! [`Talk`] is an agent of our own: a loop over chat completions with [`tools`], without a clock,
//! a file or a socket. What other agents and an endpoint say to one another is read by [`wire`].
//! [`Trial`]s become a [`Report`].

mod judge;
mod report;
mod talk;
mod task;
pub mod tools;
pub mod wire;

pub use judge::{cases_program, judge_cases, judge_tests, tests_program};
pub use report::{Comparison, Contestant, Line, Report, Trial, report};
pub use talk::{Limits, Next, Talk, Wanted};
pub use task::{CallTask, Case, Check, File, Repair, Task, sources, suite};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ended {
    /// The agent was done, as it thinks.
    Done,
    /// It has had as many turns as it may.
    Steps,
    /// It has said as much as it may.
    Tokens,
    /// The conversation no longer fits the context.
    Context,
    Time,
    /// The pipeline failed; the attempt says nothing of the model.
    Fault,
    /// The agent ended without asking the endpoint for anything; nor does this one.
    Unasked,
}

impl Ended {
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Steps,
        Self::Tokens,
        Self::Context,
        Self::Time,
        Self::Fault,
        Self::Unasked,
    ];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::Context => "context",
            Self::Time => "time",
            Self::Fault => "fault",
            Self::Unasked => "unasked",
        }
    }

    /// The one that has this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.word() == word)
    }

    /// Whether there is nothing to judge.
    #[must_use]
    pub const fn voids(self) -> bool {
        matches!(self, Self::Fault | Self::Unasked)
    }
}

/// Calls of tools, by what they were worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Of a tool that there is, with arguments that its schema allows.
    pub right: usize,
    /// Of another tool, or with other arguments.
    pub wrong: usize,
    /// With arguments that are no JSON object.
    pub malformed: usize,
}

impl Calls {
    /// What a call is worth, given the tools of the request.
    #[must_use]
    pub fn of(call: &crate::quality::Call, schema: Option<&serde_json::Value>) -> Self {
        if !call.arguments.is_object() {
            return Self {
                malformed: 1,
                ..Self::default()
            };
        }
        let is_right =
            schema.is_some_and(|schema| crate::quality::obeys(&call.arguments, schema).is_ok());
        Self {
            right: usize::from(is_right),
            wrong: usize::from(!is_right),
            malformed: 0,
        }
    }

    #[must_use]
    pub const fn all(&self) -> usize {
        self.right + self.wrong + self.malformed
    }
}

impl std::ops::AddAssign for Calls {
    fn add_assign(&mut self, other: Self) {
        self.right += other.right;
        self.wrong += other.wrong;
        self.malformed += other.malformed;
    }
}

#[cfg(test)]
mod tests;
