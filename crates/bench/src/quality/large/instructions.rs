//! Short texts about everyday things, under rules of form.

use super::Draft;
use crate::quality::{Check, Rule, RulesCheck};

/// What a text is about, and a word that belongs to it.
const SUBJECTS: [(&str, &str); 20] = [
    ("how bread is baked", "bread"),
    ("why the sea is salty", "sea"),
    ("how a bicycle stays upright", "bicycle"),
    ("what a library is good for", "library"),
    ("how bees make honey", "honey"),
    ("why leaves fall in autumn", "leaves"),
    ("how to pack a suitcase", "suitcase"),
    ("what makes a good neighbour", "neighbour"),
    ("how a fridge keeps food cold", "fridge"),
    ("why people keep dogs", "dogs"),
    ("how to learn the piano", "piano"),
    ("what a firewall does in a network", "firewall"),
    ("how rain is formed", "rain"),
    ("why trains run on rails", "rails"),
    ("how to plant a tree", "tree"),
    ("what a map shows", "map"),
    ("how coffee is roasted", "coffee"),
    ("why we sleep", "sleep"),
    ("how a bridge carries its load", "bridge"),
    ("what happens in a bakery at night", "bakery"),
];
/// Fewer are no text.
const WORDS_MIN: usize = 15;

/// Rules that go together, for a text that may be expected to hold this word.
fn rules(word: &str) -> [Vec<Rule>; 16] {
    let keys = || Rule::JsonKeys(vec!["title".into(), "text".into()]);
    let lacks = || Rule::Lacks("the".into());
    let ends = || Rule::EndsWith("That is all.".into());
    let begins = || Rule::BeginsWith("In short,".into());
    [
        vec![Rule::WordsMax(40)],
        vec![Rule::WordsMin(80)],
        vec![Rule::Bullets(4)],
        vec![Rule::Bullets(3), Rule::WordsMax(40)],
        vec![Rule::Lowercase],
        vec![Rule::Uppercase, Rule::WordsMax(60)],
        vec![Rule::NoCommas],
        vec![Rule::Holds(word.to_owned(), 3)],
        vec![ends()],
        vec![begins(), Rule::WordsMax(60)],
        vec![Rule::Quoted],
        vec![Rule::Title, Rule::Paragraphs(3)],
        vec![keys()],
        vec![Rule::Paragraphs(2), Rule::NoCommas],
        vec![lacks()],
        vec![Rule::Slots(2), ends()],
    ]
}

pub(super) fn all() -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (subject, word) in SUBJECTS {
        for mut rules in rules(word) {
            let is_json = rules.iter().any(|rule| matches!(rule, Rule::JsonKeys(_)));
            let has_min = rules.iter().any(|rule| matches!(rule, Rule::WordsMin(_)));
            if !is_json && !has_min {
                rules.insert(0, Rule::WordsMin(WORDS_MIN));
            }
            let asked: Vec<String> = rules
                .iter()
                .map(|rule| format!("- {}", rule.asked()))
                .collect();
            let prompt = format!(
                "Write a short text about {subject}. Reply with the text only, and keep to these rules:\n{}",
                asked.join("\n")
            );
            let id = format!("rules/{}", drafts.len());
            drafts.push(Draft::new(id, prompt, Check::Rules(RulesCheck { rules })));
        }
    }
    drafts
}
