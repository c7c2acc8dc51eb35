//! Which layers keep their keys and values in which types, as somebody writes it down.
//!
//! A plan is a list of rules, of which a later one stands before an earlier one:
//!
//! ```text
//! plan   = rule { (";" | ",") rule } | type | type "/" type | "first-third"
//! rule   = side [ "[" layer { "," layer } "]" ] "=" type
//! side   = "k" | "v" | "kv"
//! layer  = number | number "-" number | "first-third" | "last-third"
//! ```
//!
//! `k=q8_0,v=q4_0;k[18,20-23]=f16` keeps keys in 8 bits, but those of five layers in 16, and
//! values in 4. Layers count from 0, as llama.cpp's do.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::cache_type::{CacheType, UnknownCacheType};
use crate::loss::Side;
use crate::plan::{PlanError, Types};
use crate::shape::Shape;

/// Bytes of a plan's text: a rule for each side of each of 512 layers takes less.
const TEXT_BYTES_MAX: usize = 16_384;

/// The rule of thumb that early layers need their bits more than later ones do.
const FIRST_THIRD: &str = "first-third";
const LAST_THIRD: &str = "last-third";

/// Types by layer. [`TypePlan::of`] says what that means for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePlan {
    /// Layers that no rule names.
    base: Types,
    rules: Vec<Rule>,
}

/// The types of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerTypes {
    pub layer: u32,
    pub types: Types,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    side: Side,
    layers: Vec<Layers>,
    cache_type: CacheType,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layers {
    /// Both included.
    Range(u32, u32),
    /// Of those that keep keys, rounded up.
    FirstThird,
    LastThird,
}

/// A text that is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TypePlanError {
    #[error(transparent)]
    Type(#[from] UnknownCacheType),
    #[error(
        "`{given}` is no rule of a KV plan; write `k=TYPE`, `v=TYPE` or `kv=TYPE`, with the layers \
         it is for in brackets, as in `k=q8_0,v=q4_0;k[18,20-23]=f16`"
    )]
    Rule { given: String },
    #[error(
        "`{given}` names no layers of a KV plan; write a number, a range such as `20-23`, \
         `first-third` or `last-third`"
    )]
    Layers { given: String },
    #[error("the KV plan has {given} bytes, at most {max} are read; name layers by ranges")]
    Length { given: usize, max: usize },
}

impl TypePlan {
    /// The same types in every layer.
    #[must_use]
    pub const fn uniform(types: Types) -> Self {
        Self {
            base: types,
            rules: Vec::new(),
        }
    }

    /// Reads a plan; `open` are the types of what it says nothing of.
    ///
    /// # Errors
    /// [`TypePlanError`]: the part that cannot be read, and how to write it.
    pub fn read(text: &str, open: Types) -> Result<Self, TypePlanError> {
        let text = text.trim();
        if text.len() > TEXT_BYTES_MAX {
            return Err(TypePlanError::Length {
                given: text.len(),
                max: TEXT_BYTES_MAX,
            });
        }
        if text == FIRST_THIRD {
            return Ok(Self::first_third());
        }
        if !text.is_empty() && !text.contains('=') {
            let (keys, values) = text.split_once('/').unwrap_or((text, text));
            return Ok(Self::uniform(Types {
                keys: keys.trim().parse()?,
                values: values.trim().parse()?,
            }));
        }
        let mut plan = Self::uniform(open);
        for rule in rules(text) {
            plan.add(rule.trim())?;
        }
        Ok(plan)
    }

    /// The first third of the layers in 8 bits and the others in 4.
    fn first_third() -> Self {
        let both = |cache_type| Types {
            keys: cache_type,
            values: cache_type,
        };
        let rule = |side| Rule {
            side,
            layers: vec![Layers::FirstThird],
            cache_type: CacheType::Q8_0,
        };
        Self {
            base: both(CacheType::Q4_0),
            rules: vec![rule(Side::Keys), rule(Side::Values)],
        }
    }

    fn add(&mut self, text: &str) -> Result<(), TypePlanError> {
        let no_rule = || TypePlanError::Rule {
            given: text.to_owned(),
        };
        let (left, cache_type) = text.split_once('=').ok_or_else(no_rule)?;
        let cache_type = cache_type.trim().parse()?;
        let (side, layers) = match left.trim().split_once('[') {
            None => (left.trim(), None),
            Some((side, layers)) => {
                let layers = layers.strip_suffix(']').ok_or_else(no_rule)?;
                (side.trim(), Some(layers))
            }
        };
        let sides: &[Side] = match side {
            "k" => &[Side::Keys],
            "v" => &[Side::Values],
            "kv" => &[Side::Keys, Side::Values],
            _ => return Err(no_rule()),
        };
        let layers = layers.map(|layers| layers.split(',').map(str::trim).map(Layers::read));
        let layers = layers.map(Iterator::collect::<Result<Vec<_>, _>>);
        let layers = layers.transpose()?;
        for side in sides {
            match &layers {
                Some(layers) => {
                    let rule = Rule {
                        side: *side,
                        layers: layers.clone(),
                        cache_type,
                    };
                    let is_other = |old: &Rule| old.side != rule.side || old.layers != rule.layers;
                    self.rules.retain(is_other);
                    self.rules.push(rule);
                }
                // It is for all layers, and so nothing before it stands.
                None => {
                    *self.base.side_mut(*side) = cache_type;
                    self.rules.retain(|rule| rule.side != *side);
                }
            }
        }
        Ok(())
    }

    /// The plan that gives these keys and values these types: what most of them have, and rules
    /// for the others. Layers that are not named may have any.
    #[must_use]
    pub fn from_tensors(tensors: impl IntoIterator<Item = (u32, Side, CacheType)>) -> Self {
        let mut tensors: Vec<_> = tensors.into_iter().collect();
        tensors.sort_by_key(|(layer, ..)| *layer);
        let mut plan = Self::default();
        let mut rules: [Vec<Rule>; 2] = [Vec::new(), Vec::new()];
        for (side, rules) in [Side::Keys, Side::Values].into_iter().zip(&mut rules) {
            let with = |wanted: CacheType| {
                let of_side = tensors.iter().filter(|(_, found, _)| *found == side);
                let of_type = of_side.filter(move |(.., found)| *found == wanted);
                of_type.map(|(layer, ..)| *layer).collect::<Vec<_>>()
            };
            let mut groups = CacheType::ALL.map(|of| (of, with(of)));
            // The first of several that are as many, by the order of all types.
            groups.sort_by_key(|(_, layers)| std::cmp::Reverse(layers.len()));
            let mut groups = groups.into_iter().filter(|(_, layers)| !layers.is_empty());
            if let Some((most, _)) = groups.next() {
                *plan.base.side_mut(side) = most;
            }
            *rules = groups
                .map(|(cache_type, layers)| Rule {
                    side,
                    layers: runs(&layers),
                    cache_type,
                })
                .collect();
        }
        // A rule for both sides is written as one.
        let [keys, mut values] = rules;
        for rule in keys {
            let is_pair =
                |other: &Rule| other.layers == rule.layers && other.cache_type == rule.cache_type;
            let pair = values.iter().position(is_pair).map(|at| values.remove(at));
            plan.rules.push(rule);
            plan.rules.extend(pair);
        }
        plan.rules.extend(values);
        plan
    }

    /// Bytes of the keys and values of a token, in all layers that keep them.
    ///
    /// # Errors
    /// As of [`TypePlan::of`].
    pub fn token_bytes(&self, shape: &Shape) -> Result<u64, PlanError> {
        let types = self.of(shape)?;
        let layers = shape.layers.iter().zip(types);
        let bytes = layers.filter_map(|(layer, types)| {
            let of = layer.keys_values?;
            let keys = types.keys.row_bytes(of.heads * of.key_width);
            let values = types.values.row_bytes(of.heads * of.value_width);
            Some(keys + if shape.is_latent { 0 } else { values })
        });
        Ok(bytes.sum())
    }

    /// The types of all layers where no layer is named; `None`: it depends on the model.
    #[must_use]
    pub fn as_uniform(&self) -> Option<Types> {
        self.rules.is_empty().then_some(self.base)
    }

    /// The types of each layer of a model, those without keys included.
    ///
    /// # Errors
    /// [`PlanError`]: a layer that the model does not have, or that keeps no keys.
    pub fn of(&self, shape: &Shape) -> Result<Vec<Types>, PlanError> {
        let keeps: Vec<u32> = shape.key_layers().collect();
        let mut all = vec![self.base; shape.layers.len()];
        for rule in &self.rules {
            for layers in &rule.layers {
                for layer in layers.of(&keeps, shape.layers.len())? {
                    if let Some(types) = all.get_mut(*layer as usize) {
                        *types.side_mut(rule.side) = rule.cache_type;
                    }
                }
            }
        }
        Ok(all)
    }
}

impl Default for TypePlan {
    /// What the worker takes where nothing is set.
    fn default() -> Self {
        Self::uniform(Types::default())
    }
}

impl FromStr for TypePlan {
    type Err = TypePlanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::read(text, Types::default())
    }
}

/// The rules of a text: commas in brackets are part of one.
fn rules(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |letter| {
        match letter {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        letter == ';' || (letter == ',' && !is_inside)
    })
}

impl Layers {
    fn read(text: &str) -> Result<Self, TypePlanError> {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let range = || {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Self::Range(first, last))
        };
        match text {
            FIRST_THIRD => Ok(Self::FirstThird),
            LAST_THIRD => Ok(Self::LastThird),
            _ => range().ok_or_else(|| TypePlanError::Layers {
                given: text.to_owned(),
            }),
        }
    }

    /// Of the layers that keep keys those that are meant.
    fn of(self, keeps: &[u32], n_layers: usize) -> Result<&[u32], PlanError> {
        let third = keeps.len().div_ceil(3);
        let (first, last) = match self {
            Self::FirstThird => return Ok(&keeps[..third]),
            Self::LastThird => return Ok(&keeps[keeps.len() - third..]),
            Self::Range(first, last) => (first, last),
        };
        if last as usize >= n_layers {
            return Err(PlanError::NoSuchLayer {
                layer: last,
                last: n_layers.saturating_sub(1),
            });
        }
        let from = keeps.partition_point(|layer| *layer < first);
        let to = keeps.partition_point(|layer| *layer <= last);
        if from == to {
            return Err(PlanError::LayerWithoutKeys {
                layer: first,
                with: ranges(keeps),
            });
        }
        Ok(&keeps[from..to])
    }
}

/// Ascending layers as ranges.
fn runs(layers: &[u32]) -> Vec<Layers> {
    let runs = layers.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.filter_map(|run| Some(Layers::Range(*run.first()?, *run.last()?)));
    runs.collect()
}

/// Ascending numbers as `0,3-5`.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let runs = runs.filter_map(|run| match run {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    runs.collect::<Vec<_>>().join(",")
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstThird => f.write_str(FIRST_THIRD),
            Self::LastThird => f.write_str(LAST_THIRD),
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// As it is read, with both sides said.
impl fmt::Display for TypePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k={},v={}", self.base.keys, self.base.values)?;
        let mut rules = self.rules.iter().peekable();
        while let Some(rule) = rules.next() {
            let is_pair = |next: &Rule| {
                next.side != rule.side
                    && next.layers == rule.layers
                    && next.cache_type == rule.cache_type
            };
            let side = match (rules.next_if(|next| is_pair(next)), rule.side) {
                (Some(_), _) => "kv",
                (None, Side::Keys) => "k",
                (None, Side::Values) => "v",
            };
            let layers: Vec<_> = rule.layers.iter().map(ToString::to_string).collect();
            write!(f, ";{side}[{}]={}", layers.join(","), rule.cache_type)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
