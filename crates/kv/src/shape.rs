//! Which layers of a model hold what, from its metadata.

use thiserror::Error;

use crate::family::{self, Memory, Positions, Split, WindowLayers, WindowTokens};
use crate::header::Header;

/// llama.cpp's own bound on layers.
const LAYERS_MAX: u64 = 512;
/// Layers of Gemma 3n that have keys and values of their own; the others look into those.
const GEMMA3N_OWN_LAYERS: u64 = 20;
/// Bound on a width read from a file: no product of a few of them overflows 64 bits.
const WIDTH_MAX: u64 = 1 << 24;

/// Why a header tells no shape.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ShapeError {
    #[error("the file has no `{key}`; get another conversion of this model")]
    Missing { key: String },
    #[error(
        "`{key}` is {value}, at most {limit} can be planned for; get another conversion of this model"
    )]
    TooLarge { key: String, value: u64, limit: u64 },
    #[error("`{key}` is 0: the file has no layers; get another conversion of this model")]
    NoLayers { key: String },
    #[error(
        "`{key}` has {found} numbers for {layers} layers; get another conversion of this model"
    )]
    Length {
        key: String,
        found: usize,
        layers: u64,
    },
    #[error("the architecture `{architecture}` is not known to the llama.cpp of this build")]
    Unknown { architecture: String },
    /// Loading it tells; no figure is better than a wrong one.
    #[error(
        "the cache of the architecture `{architecture}` has rules that are not derived here; load the model and read `kv_bytes` of /props instead"
    )]
    Underived { architecture: String },
}

/// Keys and values of one token in one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysValues {
    pub heads: u64,
    /// Values of a head's key.
    pub key_width: u64,
    /// Values of a head's value; kept only where the model is not latent.
    pub value_width: u64,
}

/// What one layer holds between passes. A layer may hold both, or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layer {
    pub keys_values: Option<KeysValues>,
    /// Its keys and values reach back only as far as [`Shape::window`].
    pub is_windowed: bool,
    pub has_state: bool,
    /// Width of the index key of sparse attention.
    pub index_width: Option<u64>,
}

/// A sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub tokens: u64,
}

/// The state of one sequence in one layer, values of 32 bits each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Inputs of the last steps: what a convolution or a token shift looks back at.
    pub shift_values: u64,
    /// The running sum.
    pub sum_values: u64,
}

/// What a model holds between passes, layer by layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub architecture: String,
    /// The context it was trained for, tokens.
    pub context_train: u64,
    pub layers: Vec<Layer>,
    pub window: Option<Window>,
    pub state: State,
    /// Keys and values lie in one latent vector (MLA): there is no cache of values.
    pub is_latent: bool,
    /// Values of a row in the widest layer; without flash attention all rows are as wide.
    pub value_row_max: u64,
    /// Widths of the first layer's heads: they decide whether caches are rotated.
    pub first_head: KeysValues,
    /// A position is several numbers, so that keys cannot be moved to another.
    pub has_many_positions: bool,
    /// It keeps nothing between passes at all.
    pub is_encoder: bool,
}

impl Shape {
    /// Reads the shape of a model that llama.cpp would load.
    ///
    /// # Errors
    /// [`ShapeError`]: a key that is missing or out of range, or an architecture whose cache
    /// is not derived here.
    pub fn read(header: &dyn Header) -> Result<Self, ShapeError> {
        let reader = Reader::new(header)?;
        let memory = family::memory(&reader.architecture);
        if !family::ARCHITECTURES.contains(&reader.architecture.as_str()) {
            return Err(ShapeError::Unknown {
                architecture: reader.architecture,
            });
        }
        if memory == Memory::Underived {
            return Err(ShapeError::Underived {
                architecture: reader.architecture,
            });
        }
        reader.shape(memory)
    }

    /// Whether a sequence's state has a fixed size in some layer: it cannot be cut back.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.layers.iter().any(|layer| layer.has_state)
    }

    /// Layers that keep keys, with a window or without.
    #[must_use]
    pub fn layers_with_keys(&self) -> usize {
        self.key_layers().count()
    }

    /// Their places, from the first.
    pub(crate) fn key_layers(&self) -> impl Iterator<Item = u32> {
        let layers = self.layers.iter().zip(0_u32..);
        layers.filter_map(|(layer, at)| layer.keys_values.map(|_| at))
    }
}

/// Values of a head's key and of its value.
type Widths = (u64, u64);

/// Metadata of one model, with the numbers that everything else needs.
struct Reader<'a> {
    header: &'a dyn Header,
    architecture: String,
    /// All blocks, and those without the appended ones that only draft.
    n_all: u64,
    n_trunk: u64,
    n_embd: u64,
    heads: Vec<u64>,
    heads_kv: Vec<u64>,
}

impl<'a> Reader<'a> {
    fn new(header: &'a dyn Header) -> Result<Self, ShapeError> {
        let key = "general.architecture";
        let architecture = header.text(key).ok_or_else(|| ShapeError::Missing {
            key: key.to_owned(),
        })?;
        let mut reader = Self {
            header,
            architecture,
            n_all: 0,
            n_trunk: 0,
            n_embd: 0,
            heads: Vec::new(),
            heads_kv: Vec::new(),
        };
        let physical = reader.required("block_count", LAYERS_MAX)?;
        if physical == 0 {
            let key = reader.key("block_count");
            return Err(ShapeError::NoLayers { key });
        }
        // Nanbeige runs through its blocks several times, each time with a cache of its own.
        let loops = match reader.architecture.as_str() {
            "nanbeige" => reader.number("num_loops")?.unwrap_or(1).max(1),
            _ => 1,
        };
        let drafting = reader.number("nextn_predict_layers")?.unwrap_or(0);
        reader.n_all = physical;
        reader.n_embd = reader.required("embedding_length", WIDTH_MAX)?;
        reader.heads = reader
            .per_layer("attention.head_count")?
            .unwrap_or(vec![0; physical as usize]);
        let heads_kv = reader.per_layer("attention.head_count_kv")?;
        reader.heads_kv = heads_kv.unwrap_or_else(|| reader.heads.clone());
        reader.n_all = check(
            reader.key("num_loops"),
            physical.saturating_mul(loops),
            LAYERS_MAX,
        )?;
        let repeat = |of_blocks: &[u64]| of_blocks.repeat(loops as usize);
        (reader.heads, reader.heads_kv) = (repeat(&reader.heads), repeat(&reader.heads_kv));
        reader.n_trunk = reader.n_all.saturating_sub(drafting);
        Ok(reader)
    }

    fn key(&self, last: &str) -> String {
        format!("{}.{last}", self.architecture)
    }

    fn number(&self, last: &str) -> Result<Option<u64>, ShapeError> {
        let key = self.key(last);
        match self.header.number(&key) {
            Some(value) => check(key, value, WIDTH_MAX).map(Some),
            None => Ok(None),
        }
    }

    fn required(&self, last: &str, limit: u64) -> Result<u64, ShapeError> {
        let key = self.key(last);
        match self.header.number(&key) {
            Some(value) => check(key, value, limit),
            None => Err(ShapeError::Missing { key }),
        }
    }

    /// One number for each layer: an array of them, or the same for all.
    fn per_layer(&self, last: &str) -> Result<Option<Vec<u64>>, ShapeError> {
        let key = self.key(last);
        let layers = self.n_all;
        if let Some(value) = self.header.number(&key) {
            let value = check(key, value, WIDTH_MAX)?;
            return Ok(Some(vec![value; layers as usize]));
        }
        let Some(values) = self.header.numbers(&key) else {
            return Ok(None);
        };
        if values.len() as u64 != layers {
            return Err(ShapeError::Length {
                key,
                found: values.len(),
                layers,
            });
        }
        let checked = values
            .into_iter()
            .map(|value| check(key.clone(), value, WIDTH_MAX));
        checked.collect::<Result<_, _>>().map(Some)
    }

    fn shape(self, memory: Memory) -> Result<Shape, ShapeError> {
        let [full, windowed] = self.head_widths()?;
        let (window, in_window) = self.windows()?;
        let (attends, has_state) = self.split(memory)?;
        let own_layers = self.own_layers()?;
        let index_width = match self.architecture.as_str() {
            "deepseek32" => Some(self.required("attention.indexer.key_length", WIDTH_MAX)?),
            _ => None,
        };
        let of_layer = |at: usize| {
            let widths = if in_window[at] { windowed } else { full };
            KeysValues {
                heads: self.heads_kv[at],
                key_width: widths.0,
                value_width: widths.1,
            }
        };
        let layers: Vec<Layer> = (0..self.n_all as usize)
            .map(|at| Layer {
                keys_values: (attends[at] && (at as u64) < own_layers).then(|| of_layer(at)),
                is_windowed: in_window[at],
                has_state: has_state[at],
                index_width: index_width.filter(|_| attends[at]),
            })
            .collect();
        let all = (0..self.n_all as usize).map(of_layer);
        let value_rows = all.map(|one| one.heads * one.value_width);
        let latent = self.number("attention.key_length_mla")?.unwrap_or(0) > 0
            && self.number("attention.value_length_mla")?.unwrap_or(0) > 0;
        Ok(Shape {
            context_train: self.required("context_length", u64::from(u32::MAX))?,
            layers,
            window,
            state: self.state(memory)?,
            is_latent: latent && family::may_be_latent(&self.architecture),
            value_row_max: value_rows.max().unwrap_or(0),
            first_head: of_layer(0),
            has_many_positions: self.has_many_positions(),
            is_encoder: memory == Memory::None,
            architecture: self.architecture,
        })
    }

    /// Widths of a head's keys and values, in layers without and with a window.
    fn head_widths(&self) -> Result<[Widths; 2], ShapeError> {
        let heads = self.heads.first().copied().unwrap_or(0);
        let width = |last: &str| -> Result<u64, ShapeError> {
            let given = self.number(last)?;
            // PLaMo 2 names its widths although its first layer has no heads.
            match (heads, self.architecture.as_str()) {
                (0, "plamo2") => Ok(given.unwrap_or(0)),
                (0, _) => Ok(0),
                _ => Ok(given.unwrap_or(self.n_embd / heads)),
            }
        };
        let full = (
            width("attention.key_length")?,
            width("attention.value_length")?,
        );
        let windowed = (
            self.number("attention.key_length_swa")?.unwrap_or(full.0),
            self.number("attention.value_length_swa")?.unwrap_or(full.1),
        );
        Ok([full, windowed])
    }

    /// The window and the layers that have it.
    fn windows(&self) -> Result<(Option<Window>, Vec<bool>), ShapeError> {
        let none = vec![false; self.n_all as usize];
        let Some(rule) = family::window(&self.architecture, self.n_trunk) else {
            return Ok((None, none));
        };
        let given = self.number("attention.sliding_window")?;
        let tokens = match rule.tokens {
            WindowTokens::Key => given.unwrap_or(0),
            WindowTokens::KeyOr(usual) => given.unwrap_or(usual),
            WindowTokens::Fixed(fixed) => given.map_or(0, |given| fixed * given.min(1)),
            WindowTokens::FixedUnlessZero(fixed) => {
                given.map_or(fixed, |given| fixed * given.min(1))
            }
        };
        if tokens == 0 {
            return Ok((None, none));
        }
        let key = self.key("attention.sliding_window_pattern");
        let n_layers = self.n_all as usize;
        let has_window: Vec<bool> = if rule.layers == WindowLayers::Attending {
            self.heads_kv.iter().map(|heads| *heads > 0).collect()
        } else if let Some(listed) = self.header.numbers(&key) {
            let listed = listed.into_iter().map(|one| one != 0);
            listed
                .chain([false].into_iter().cycle())
                .take(n_layers)
                .collect()
        } else {
            let given = self.header.number(&key);
            (0..self.n_all)
                .map(|layer| layer < self.n_trunk && in_pattern(rule.layers, given, layer))
                .collect()
        };
        Ok((Some(Window { tokens }), has_window))
    }

    /// Which layers attend with keys and values, and which keep a state.
    fn split(&self, memory: Memory) -> Result<(Vec<bool>, Vec<bool>), ShapeError> {
        let all = 0..self.n_all;
        let trunk = |layer: u64| layer < self.n_trunk;
        let (none, whole) = (vec![false; all.clone().count()], all.clone().map(trunk));
        let split = match memory {
            Memory::None | Memory::Underived => return Ok((none.clone(), none)),
            Memory::Attention => return Ok((whole.collect(), none)),
            Memory::State => return Ok((none, whole.collect())),
            Memory::Hybrid(split) => split,
        };
        let heads = |layer: u64| self.heads_kv[layer as usize];
        Ok(match split {
            Split::Both => (all.clone().map(|_| true).collect(), whole.collect()),
            Split::NoHeads => {
                let is_state = |layer: u64| trunk(layer) && heads(layer) == 0;
                let states: Vec<bool> = all.map(is_state).collect();
                (states.iter().map(|state| !state).collect(), states)
            }
            Split::NoHeadsNoFeedForward => {
                let widths = self.per_layer("feed_forward_length")?;
                let alone = |layer: u64| {
                    widths
                        .as_ref()
                        .is_none_or(|widths| widths[layer as usize] == 0)
                };
                let is_state = |layer: u64| trunk(layer) && heads(layer) == 0 && alone(layer);
                let attends = |layer: u64| !is_state(layer) && alone(layer);
                (
                    all.clone().map(attends).collect(),
                    all.map(is_state).collect(),
                )
            }
            Split::AllBut { every } => {
                let listed = self.per_layer("attention.recurrent_layers")?;
                let every = self
                    .number("full_attention_interval")?
                    .unwrap_or(every)
                    .max(1);
                let is_state = |layer: u64| match &listed {
                    Some(listed) => listed[layer as usize] != 0,
                    None => !(layer + 1).is_multiple_of(every),
                };
                let attends = |layer: u64| trunk(layer) && !is_state(layer);
                let states = |layer: u64| trunk(layer) && is_state(layer);
                (
                    all.clone().map(attends).collect(),
                    all.map(states).collect(),
                )
            }
        })
    }

    /// Layers from the first that have a cache of their own; later ones read theirs.
    fn own_layers(&self) -> Result<u64, ShapeError> {
        Ok(match self.architecture.as_str() {
            "gemma3n" => GEMMA3N_OWN_LAYERS,
            "gemma4" => {
                let shared = self.number("attention.shared_kv_layers")?.unwrap_or(0);
                self.n_all.saturating_sub(shared)
            }
            _ => self.n_all,
        })
    }

    fn state(&self, memory: Memory) -> Result<State, ShapeError> {
        if !matches!(memory, Memory::State | Memory::Hybrid(_)) {
            return Ok(State::default());
        }
        let number = |last: &str| Ok(self.number(last)?.unwrap_or(0));
        let heads = self.heads.first().copied().unwrap_or(0);
        let conv = number("ssm.conv_kernel")?;
        if let Some(head) = self.number("wkv.head_size")?.filter(|head| *head > 0) {
            let shifts = self.number("token_shift_count")?.unwrap_or(2);
            return Ok(State {
                shift_values: shifts * self.n_embd,
                sum_values: self.n_embd * head,
            });
        }
        if let Some(head) = self.number("kda.head_dim")?.filter(|head| *head > 0) {
            let taps = if conv > 0 { conv - 1 } else { 3 };
            return Ok(State {
                shift_values: (3 * taps).saturating_mul(heads * head),
                sum_values: head.saturating_mul(head).saturating_mul(heads),
            });
        }
        if self.architecture == "minimax-01" {
            let [(width, _), _] = self.head_widths()?;
            return Ok(State {
                shift_values: 0,
                sum_values: width.saturating_mul(width).saturating_mul(heads),
            });
        }
        if self.architecture.starts_with("lfm2") {
            let taps = self.required("shortconv.l_cache", WIDTH_MAX)?;
            return Ok(State {
                shift_values: self.n_embd * taps.saturating_sub(1),
                sum_values: 0,
            });
        }
        let (inner, size) = (number("ssm.inner_size")?, number("ssm.state_size")?);
        let groups = match family::has_state_groups(&self.architecture) {
            true => number("ssm.group_count")?,
            false => 0,
        };
        let width = inner.saturating_add(groups.saturating_mul(size).saturating_mul(2));
        Ok(State {
            shift_values: conv.saturating_sub(1).saturating_mul(width),
            sum_values: size.saturating_mul(inner),
        })
    }

    fn has_many_positions(&self) -> bool {
        match family::positions(&self.architecture) {
            Positions::One => false,
            Positions::Several => true,
            Positions::BySections => {
                let sections = self.header.numbers(&self.key("rope.dimension_sections"));
                sections.is_some_and(|sections| sections.iter().take(2).all(|one| *one > 0))
            }
        }
    }
}

fn in_pattern(layers: WindowLayers, given: Option<u64>, layer: u64) -> bool {
    let (period, dense_first) = match layers {
        WindowLayers::Period(period) => (period, false),
        WindowLayers::PeriodDenseFirst(period) => (period, true),
        WindowLayers::Listed | WindowLayers::Attending => return false,
    };
    match given.unwrap_or(period) {
        0 => true,
        period if dense_first => !layer.is_multiple_of(period),
        period => layer % period < period - 1,
    }
}

fn check(key: String, value: u64, limit: u64) -> Result<u64, ShapeError> {
    if value > limit {
        return Err(ShapeError::TooLarge { key, value, limit });
    }
    Ok(value)
}
