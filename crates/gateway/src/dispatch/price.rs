//! What requests cost, before and after they ran. Pure.

use std::collections::BTreeMap;

use proto::{EmbeddingInput, Generation, Job, Prompt};
use router::untagged;
use stdx::Cost;

use super::Facts;
use crate::access::{Amount, BYTES_PER_TOKEN};

/// Tokens that an image is taken for before a model has looked at it: models take some
/// hundreds for a small one and up to some thousands for a large one.
const IMAGE_TOKENS: u64 = 1_000;

/// What a million tokens cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    pub prompt: Cost,
    pub completion: Cost,
}

impl Price {
    pub(crate) fn of(self, prompt_tokens: u64, completion_tokens: u64) -> Cost {
        self.prompt.of_tokens(prompt_tokens) + self.completion.of_tokens(completion_tokens)
    }
}

/// The prices of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices {
    /// Of models that have none of their own.
    pub other: Price,
    pub models: BTreeMap<String, Price>,
}

impl Prices {
    pub(super) fn of(&self, model: &str) -> Price {
        let found = self.models.get(model);
        let found = found.or_else(|| self.models.get(untagged(model)));
        found.copied().unwrap_or(self.other)
    }
}

/// Tokens that a request may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) prompt_tokens: u64,
    /// As many as it asks for at most; none where it does not say.
    pub(crate) completion_tokens: u64,
}

impl Estimate {
    pub(crate) fn of(jobs: &[Job]) -> Self {
        let mut sum = Self::default();
        for job in jobs {
            let (token_ids, generation) = match job {
                Job::Chat(job) => (0, Some(&job.generation)),
                Job::Completion(job) => {
                    let token_ids = match &job.prompt {
                        Prompt::Text(_) => 0,
                        Prompt::Tokens(tokens) => tokens.len(),
                    };
                    (token_ids, Some(&job.generation))
                }
                Job::Embedding(job) => {
                    let inputs = job.inputs.iter().map(|input| match input {
                        EmbeddingInput::Text(_) => 0,
                        EmbeddingInput::Tokens(tokens) => tokens.len(),
                    });
                    (inputs.sum(), None)
                }
                // No model runs for these.
                Job::Tokenize { .. } | Job::Detokenize { .. } | Job::Render(_) => continue,
            };
            let facts = Facts::of_all(std::slice::from_ref(job));
            let n_images = job.images().count() as u64;
            let n_bytes: usize = facts.texts.iter().map(|text| text.len()).sum();
            sum.prompt_tokens += n_images * IMAGE_TOKENS;
            sum.prompt_tokens += (n_bytes as u64).div_ceil(BYTES_PER_TOKEN) + token_ids as u64;
            sum.completion_tokens += generation.map_or(0, most);
        }
        sum
    }

    pub(crate) fn at(self, price: Price) -> Amount {
        Amount {
            tokens: self.prompt_tokens + self.completion_tokens,
            cost: price.of(self.prompt_tokens, self.completion_tokens),
        }
    }
}

/// Tokens that are generated at most, as far as the request says so.
fn most(generation: &Generation) -> u64 {
    u64::from(generation.max_tokens.unwrap_or(0)) * u64::from(generation.n.max(1))
}

#[cfg(test)]
mod tests {
    use proto::{ChatJob, CompletionJob, EmbeddingJob, Message};

    use super::*;

    #[test]
    fn prices_go_by_the_model_and_then_by_the_provider() {
        let price = |prompt| Price {
            prompt: Cost(prompt),
            completion: Cost(0),
        };
        let prices = Prices {
            other: price(1),
            models: [("large".to_owned(), price(2))].into_iter().collect(),
        };
        assert_eq!(prices.of("large:latest"), price(2));
        assert_eq!(prices.of("small"), price(1));
    }

    #[test]
    fn estimates_count_texts_token_ids_and_what_is_asked_for() {
        let generation = Generation {
            n: 2,
            max_tokens: Some(10),
            ..Generation::default()
        };
        let chat = Job::Chat(Box::new(ChatJob {
            messages: vec![Message {
                content: Some("12345".into()),
                ..Message::default()
            }],
            generation: generation.clone(),
            ..ChatJob::default()
        }));
        let completion = Job::Completion(Box::new(CompletionJob {
            echo: false,
            prompt: Prompt::Tokens(vec![1, 2, 3]),
            generation: Generation {
                max_tokens: None,
                ..generation
            },
            constraint: None,
        }));
        let embedding = Job::Embedding(EmbeddingJob {
            inputs: vec![EmbeddingInput::Text("1234".into())],
        });
        let nothing = Job::Detokenize { tokens: vec![1] };
        let estimate = Estimate::of(&[chat, completion, embedding, nothing]);
        assert_eq!(estimate.prompt_tokens, 2 + 3 + 1);
        assert_eq!(estimate.completion_tokens, 20);
    }
}
