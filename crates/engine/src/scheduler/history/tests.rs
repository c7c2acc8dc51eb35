use std::collections::HashSet;

use super::*;
use crate::fake::{END, FakeVocabulary};

fn tokens(text: &str) -> Vec<TokenId> {
    text.bytes().map(TokenId::from).collect()
}

const SYSTEM: &str = "You are a helpful assistant that answers in one word. ";
const TIME: &str = "It is 14:38 o'clock. ";
const WEATHER: &str = "Tool weather: what the sky is like. ";
const CLOCK: &str = "Tool clock: hours and minutes there. ";
const ASK: &str = "Q: What is the capital of France? A:";
const ANSWER: &str = "<think>hm, easy</think> Paris, of course";
const NEXT: &str = ". Q: And of Spain? A:";

/// Bytes as tokens, and pairs of them behind the bytes: a text has several spellings.
struct Pairs;

const PAIRS: TokenId = 1000;

fn pair(text: &str) -> TokenId {
    let bytes = text.as_bytes();
    PAIRS + TokenId::from(bytes[0]) * 256 + TokenId::from(bytes[1])
}

impl Vocabulary for Pairs {
    fn n_tokens(&self) -> usize {
        FakeVocabulary.n_tokens()
    }

    fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<TokenId> {
        FakeVocabulary.tokenize(text, add_special, parse_special)
    }

    fn piece(&self, token: TokenId, special: bool) -> Vec<u8> {
        match u16::try_from(token - PAIRS) {
            Ok(pair) => pair.to_be_bytes().to_vec(),
            Err(_) => FakeVocabulary.piece(token, special),
        }
    }

    fn is_end_of_generation(&self, token: TokenId) -> bool {
        FakeVocabulary.is_end_of_generation(token)
    }

    fn is_control(&self, token: TokenId) -> bool {
        FakeVocabulary.is_control(token)
    }
}

/// What was read before, where its answer begins, what comes, what that began with, and what
/// is to be said of it.
struct Case {
    name: &'static str,
    past: (Vec<TokenId>, usize),
    prompt: Vec<TokenId>,
    begun: Begun,
    expected: (PrefixCause, Option<PrefixDetail>),
}

/// A prompt of which all that it has in common with the earlier one is still there.
fn of_theirs(name: &'static str, prompt: Vec<TokenId>, cause: PrefixCause) -> Case {
    let ask = format!("{SYSTEM}{TIME}{WEATHER}{CLOCK}{ASK}");
    let past = tokens(&format!("{ask}{ANSWER}"));
    let live = common_prefix(&past, &prompt).min(prompt.len() - 1);
    Case {
        name,
        past: (past, ask.len()),
        begun: Begun {
            live,
            ..Begun::default()
        },
        prompt,
        expected: (cause, None),
    }
}

fn edited(name: &'static str, prompt: &str, detail: PrefixDetail) -> Case {
    Case {
        expected: (PrefixCause::Edited, Some(detail)),
        ..of_theirs(name, tokens(prompt), PrefixCause::Edited)
    }
}

fn rewritten(name: &'static str, answer: Vec<TokenId>, detail: PrefixDetail) -> Case {
    let mut prompt = tokens(&format!("{SYSTEM}{TIME}{WEATHER}{CLOCK}{ASK}"));
    prompt.extend(answer);
    prompt.extend(tokens(NEXT));
    Case {
        expected: (PrefixCause::Rewritten, Some(detail)),
        ..of_theirs(name, prompt, PrefixCause::Rewritten)
    }
}

/// The same prompt once more, and what kept it from being gone on from.
fn of_ours(name: &'static str, begun: Begun, cause: PrefixCause) -> Case {
    let case = of_theirs(name, Vec::from([0; 1]), cause);
    Case {
        prompt: case.past.0[..case.past.1].to_vec(),
        expected: (cause, begun.window.or(begun.opted_out)),
        begun,
        ..case
    }
}

fn cases_of_theirs() -> Vec<Case> {
    use PrefixCause::{Branched, Extended, New, Repeated};
    use PrefixDetail::{Counter, Inserted, Moved, Removed, Replaced};
    let ask = format!("{SYSTEM}{TIME}{WEATHER}{CLOCK}{ASK}");
    let dated = ask.replace("14:38", "15:02");
    let told = ask.replace(TIME, "It is noon, I think. ");
    let shorter = ask.replace(WEATHER, "");
    let longer = ask.replace(TIME, &format!("Be brief, and never ever lie to us. {TIME}"));
    let swapped = format!("{SYSTEM}{TIME}{CLOCK}{WEATHER}{ASK}");
    let other = format!("{SYSTEM}Translate house into Latin, please!");
    let robot = ask.replace("helpful assistant", "terse robot");
    vec![
        of_theirs(
            "new",
            tokens("What else is there to be said of all this?"),
            New,
        ),
        of_theirs("repeated", tokens(&ask), Repeated),
        of_theirs(
            "extended",
            tokens(&format!("{ask}{ANSWER}{NEXT}")),
            Extended,
        ),
        of_theirs("another conversation", tokens(&other), Branched),
        edited("the time", &dated, Counter),
        edited("something put in", &longer, Inserted),
        edited(
            "something before all",
            &format!("Good morning to you. {ask}"),
            Inserted,
        ),
        edited("a tool left out", &shorter, Removed),
        edited("tools in another order", &swapped, Moved),
        edited("another line", &told, Replaced),
        edited("another first line", &robot, Replaced),
    ]
}

fn cases_of_answers() -> Vec<Case> {
    use PrefixDetail::{ReasoningLeftOut, Replaced, Respaced, Retokenised, Shortened};
    let mut spelled = tokens(ANSWER);
    let at = ANSWER.len() - 2;
    spelled.splice(at.., [pair("se")]);
    let mut cut = tokens("<think>hm, easy</think> Paris");
    cut.push(END);
    let spaced = ANSWER.replace("</think> ", "</think>\n\n");
    let left_out = tokens(" Paris, of course");
    // The template has opened the reasoning in the prompt.
    let opened = rewritten(
        "reasoning that the prompt opened",
        left_out.clone(),
        ReasoningLeftOut,
    );
    let opened = Case {
        past: (opened.past.0, opened.past.1 + "<think>".len()),
        ..opened
    };
    vec![
        opened,
        rewritten("no reasoning", left_out, ReasoningLeftOut),
        rewritten("other line ends", tokens(&spaced), Respaced),
        rewritten("other tokens", spelled, Retokenised),
        rewritten("cut", cut, Shortened),
        rewritten("another answer", tokens(" Lyon, I would say"), Replaced),
    ]
}

fn cases_of_ours() -> Vec<Case> {
    let none = Begun::default();
    let all = SYSTEM.len() * 3;
    let stranded = |window| Begun {
        stranded: all,
        window: Some(window),
        ..none
    };
    let opted_out = |why| Begun {
        opted_out: Some(why),
        ..none
    };
    let unread = Begun {
        unread: 4 * all,
        ..none
    };
    let slower = Begun {
        stranded: all,
        is_slower: true,
        ..none
    };
    use PrefixCause::{Evicted, OptedOut, Running, Slower, Window};
    vec![
        of_ours("made room", none, Evicted),
        of_ours("being read", unread, Running),
        of_ours("slow to fetch", slower, Slower),
        of_ours("window", stranded(PrefixDetail::SlidingWindow), Window),
        of_ours("state", stranded(PrefixDetail::RecurrentState), Window),
        of_ours("not wanted", opted_out(PrefixDetail::CachePrompt), OptedOut),
        of_ours(
            "logprobs",
            opted_out(PrefixDetail::PromptLogprobs),
            OptedOut,
        ),
    ]
}

/// Each cause by a script.
#[test]
fn causes_are_told_apart() {
    let cases = [cases_of_theirs(), cases_of_answers(), cases_of_ours()];
    let cases = cases.into_iter().flatten().collect::<Vec<_>>();
    let told_apart: HashSet<String> = cases
        .iter()
        .map(|case| format!("{:?}", case.expected))
        .collect();
    assert!(told_apart.len() >= 20, "{}", told_apart.len());
    for case in cases {
        let mut history = History::default();
        history.remember(case.past.0.clone(), case.past.1);
        let told = history.explain(&case.prompt, &case.begun, &Pairs);
        assert_eq!((told.cause, told.detail), case.expected, "{}", case.name);
        // Only what could have been avoided has lost anything: all that was known and had to
        // be computed.
        let known = case.past.0.len().min(case.prompt.len() - 1);
        let lost = match told.cause {
            PrefixCause::New
            | PrefixCause::Repeated
            | PrefixCause::Extended
            | PrefixCause::Branched => 0,
            _ => known - case.begun.live,
        };
        assert_eq!(told.lost_tokens as usize, lost, "{}", case.name);
    }
}

#[test]
fn without_a_history_what_was_restored_tells() {
    let prompt = tokens(&SYSTEM.repeat(2));
    let explain = |restored| {
        let begun = Begun {
            restored,
            ..Begun::default()
        };
        History::default()
            .explain(&prompt, &begun, &FakeVocabulary)
            .cause
    };
    assert_eq!(explain(0), PrefixCause::New);
    assert_eq!(explain(32), PrefixCause::Extended);
    assert_eq!(explain(prompt.len() - 1), PrefixCause::Repeated);
}

#[test]
fn only_a_change_is_shown_and_the_place_is_in_it() {
    let mut history = History::default();
    let old = format!("{SYSTEM}The time is 14:38 and the question is this.");
    let new = format!("{SYSTEM}The time is 15:02 and the question is this.");
    history.remember(tokens(&old), old.len());
    let begun = Begun::default();
    let live = Begun {
        live: SYSTEM.len() + 13,
        ..begun
    };
    let told = history.explain(&tokens(&new), &live, &FakeVocabulary);
    assert_eq!(told.cause, PrefixCause::Edited);
    let excerpt = told.excerpt.unwrap();
    assert!(excerpt.contains("15:02"), "{excerpt}");
    let told = history.explain(
        &tokens("Something else altogether"),
        &begun,
        &FakeVocabulary,
    );
    assert_eq!((told.cause, told.excerpt), (PrefixCause::New, None));
}

#[test]
fn memory_of_the_past_is_bounded() {
    let mut history = History::default();
    for at in 0..1000 {
        history.remember(vec![at; 5], 5);
    }
    assert_eq!(history.past.len(), PROMPTS_MAX);
    history.remember(vec![7; TOKENS_MAX + 1], 1);
    assert_eq!(history.past.len(), PROMPTS_MAX);
}
