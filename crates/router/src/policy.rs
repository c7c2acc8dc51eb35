//! What the operator wants.

use std::collections::BTreeMap;

use crate::{Bound, Limit, Reach, Task, untagged};

/// Names and routes by hand. Each list is in order: primary, then backups, each a
/// `PROVIDER:MODEL`, a provider's name with a colon behind it for its default model, or the
/// name of a model that any provider may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Names of ours that stand for others.
    pub aliases: BTreeMap<String, Vec<String>>,
    pub tasks: BTreeMap<Task, Vec<String>>,
    /// What `auto` means; empty: the default model of the first provider that can.
    pub auto: Vec<String>,
    /// What answers where the model that was named cannot.
    pub fallback: Vec<String>,
    /// How far the requests for a model (or an alias) may travel.
    pub model_reach: BTreeMap<String, Reach>,
}

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("the alias `{alias}` stands for the alias `{target}`; name the models themselves")]
    Nested { alias: String, target: String },
    #[error("the alias `{alias}` stands for nothing; name at least one model")]
    Empty { alias: String },
    #[error("`{alias}` is what the router itself is asked with; choose another name for the alias")]
    Reserved { alias: String },
}

impl PolicyError {
    /// The alias that is at fault.
    #[must_use]
    pub fn alias(&self) -> &str {
        match self {
            Self::Nested { alias, .. } | Self::Empty { alias } | Self::Reserved { alias } => alias,
        }
    }
}

impl Policy {
    /// The limit that the name a request asks for brings along: a model's, an alias's, or
    /// `auto`.
    #[must_use]
    pub fn name_limit(&self, name: Option<&str>) -> Option<Limit> {
        let name = name.filter(|name| !name.is_empty()).unwrap_or("auto");
        self.limit_of(&[name, untagged(name)])
    }

    /// The limit of a model that was found, however it was asked for.
    pub(crate) fn target_limit(&self, provider: &str, model: &str) -> Option<Limit> {
        if self.model_reach.is_empty() {
            return None;
        }
        let full = format!("{provider}:{model}");
        self.limit_of(&[model, untagged(model), &full, untagged(&full)])
    }

    /// The strictest label of some names of one thing.
    fn limit_of(&self, names: &[&str]) -> Option<Limit> {
        let labels = names.iter().filter_map(|name| {
            let reach = *self.model_reach.get(*name)?;
            Some((reach, *name))
        });
        let (reach, name) = labels.min()?;
        let bound = Bound::Model(name.to_owned());
        Some(Limit { reach, bound })
    }

    /// # Errors
    /// The first rule that makes no sense.
    pub fn check(&self) -> Result<(), PolicyError> {
        for (alias, targets) in &self.aliases {
            let alias = || alias.clone();
            if alias() == "auto" || alias().starts_with("auto:") {
                return Err(PolicyError::Reserved { alias: alias() });
            }
            if targets.is_empty() {
                return Err(PolicyError::Empty { alias: alias() });
            }
            if let Some(target) = targets.iter().find(|name| self.aliases.contains_key(*name)) {
                let target = target.clone();
                return Err(PolicyError::Nested {
                    alias: alias(),
                    target,
                });
            }
        }
        Ok(())
    }
}
