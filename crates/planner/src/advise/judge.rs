//! Which engine makes sense for a load on a machine, and why.

use super::{EmbeddedGpu, Engine, Known, Load, Room, Site, fact_named};
use crate::answer::SLOTS_MAX;
use crate::device::Vendor;
use crate::roofline::Class;

/// From so many on the engines that page their cache are worth a second program.
pub const MANY_USERS: u32 = 8;

/// What is thought of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The one to take.
    Best,
    Works,
    No,
}

impl Verdict {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Works => "works",
            Self::No => "no",
        }
    }
}

/// Why, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub known: Known,
    pub text: String,
    /// Of what others have published.
    pub source: Option<&'static str>,
}

/// An engine and what is thought of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub engine: Engine,
    pub verdict: Verdict,
    pub reasons: Vec<Reason>,
}

/// Judges all engines, the best one first, then those that work.
#[must_use]
pub fn judge(site: Site, load: &Load, room: &Room) -> Vec<Judged> {
    let case = Case { site, load, room };
    let best = case.best();
    let mut judged: Vec<Judged> = Engine::ALL
        .into_iter()
        .map(|engine| {
            let (can, mut reasons) = case.of(engine);
            let verdict = match (can, engine == best) {
                (_, true) => Verdict::Best,
                (true, false) => Verdict::Works,
                (false, false) => Verdict::No,
            };
            if engine == best {
                reasons.insert(0, case.why_best(engine));
            }
            Judged {
                engine,
                verdict,
                reasons,
            }
        })
        .collect();
    judged.sort_by_key(|one| match one.verdict {
        Verdict::Best => 0,
        Verdict::Works => 1,
        Verdict::No => 2,
    });
    judged
}

struct Case<'a> {
    site: Site,
    load: &'a Load,
    room: &'a Room,
}

fn rule(text: impl Into<String>) -> Reason {
    Reason {
        known: Known::Rule,
        text: text.into(),
        source: None,
    }
}

fn predicted(text: impl Into<String>) -> Reason {
    Reason {
        known: Known::Predicted,
        ..rule(text)
    }
}

/// A fact of the table; none where it has none of that name.
fn published(id: &str) -> Option<Reason> {
    let fact = fact_named(id)?;
    Some(Reason {
        known: Known::Published,
        text: fact.says.to_owned(),
        source: Some(fact.source),
    })
}

impl Case<'_> {
    fn has_gpu(&self) -> bool {
        matches!(self.site.class, Class::Gpu | Class::UnifiedGpu)
    }

    fn is_many(&self) -> bool {
        self.load.users >= MANY_USERS
    }

    fn best(&self) -> Engine {
        let runs_embedded =
            self.embedded().0 && (!self.has_gpu() || self.site.embedded_gpu == EmbeddedGpu::Usable);
        if self.is_many() && self.paging().is_ok() {
            Engine::Vllm
        } else if runs_embedded && !self.room.is_pool_short() && self.load.users <= SLOTS_MAX {
            Engine::Embedded
        } else {
            Engine::LlamaServer
        }
    }

    fn why_best(&self, engine: Engine) -> Reason {
        let users = self.load.users;
        match engine {
            Engine::Vllm => rule(format!(
                "{users} users at once ({MANY_USERS} or more), and the whole model is in the GPU's \
                 memory: paging gets more of them through"
            )),
            Engine::Embedded if self.has_gpu() => rule(format!(
                "{users} users are few for a GPU: one program less, with prompts that are kept and \
                 settings that are measured"
            )),
            Engine::Embedded => rule(
                "on processors the kernels and the settings decide, and these are made and measured \
                 for this machine",
            ),
            _ if self.room.is_pool_short() => {
                rule("its cache can be split, so that each user has the context that was asked for")
            }
            _ if !self.has_gpu() => rule("it takes as many at once as it is told to"),
            _ => rule("it computes on this machine's GPU, and Sextant starts and routes to it"),
        }
    }

    fn of(&self, engine: Engine) -> (bool, Vec<Reason>) {
        match engine {
            Engine::Embedded => self.embedded(),
            Engine::LlamaServer => (true, self.llama_server()),
            Engine::Vllm | Engine::Sglang => self.paged(engine),
            Engine::Ollama => {
                let ids = ["ollama-wraps", "ollama-parallel", "ollama-context"];
                (true, ids.into_iter().filter_map(published).collect())
            }
        }
    }

    fn embedded(&self) -> (bool, Vec<Reason>) {
        if self.site.vendor == Vendor::Apple {
            return (false, vec![rule("Sextant runs on Linux")]);
        }
        let mut reasons = Vec::new();
        if self.has_gpu() && self.site.embedded_gpu == EmbeddedGpu::OtherBuild {
            reasons.push(rule(
                "this build has no back end for the GPU (docs/gpu.md), so it would compute on the \
                 processor",
            ));
        }
        if self.room.is_pool_short() {
            let (pool, wanted) = (self.room.pool_max, self.room.answer.setup.context);
            reasons.push(rule(format!(
                "its users share one pool of at most {pool} tokens, for which the model was trained, \
                 and all of them want {wanted}: that is {} each when all are full",
                pool / self.load.users.max(1)
            )));
        }
        if self.load.users > SLOTS_MAX {
            reasons.push(rule(format!(
                "it answers {SLOTS_MAX} at once, and the others wait for their turn"
            )));
        }
        (true, reasons)
    }

    fn llama_server(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if !self.has_gpu() {
            reasons.push(rule(
                "the same engine without our kernels and measured settings",
            ));
        }
        let ids: &[&str] = match self.site.class {
            Class::Board => &["llama-server-threads", "llama-server-cache"],
            Class::Cpu => &["llama-server-slots", "llama-server-cache"],
            Class::UnifiedGpu | Class::Gpu => &["llama-server-slots", "llama-batches"],
        };
        reasons.extend(ids.iter().copied().filter_map(published));
        reasons
    }

    /// Whether an engine that pages its cache makes sense; else why not.
    fn paging(&self) -> Result<(), Vec<Reason>> {
        let refuse = |first: Reason, id: &str| {
            let mut reasons = vec![first];
            reasons.extend(published(id));
            Err(reasons)
        };
        match (self.site.class, self.site.vendor) {
            (Class::Board, _) => refuse(rule("a board has no GPU that it knows"), "vllm-arm"),
            (Class::Cpu, _) => refuse(
                rule("without a GPU it would read a quantised file's weights in 16 bits"),
                "vllm-gguf",
            ),
            (_, Vendor::Nvidia | Vendor::Amd) if self.room.is_fast() => Ok(()),
            (_, Vendor::Nvidia | Vendor::Amd) => refuse(
                predicted("the model and the caches do not fit into the GPU's memory as a whole"),
                "vllm-memory",
            ),
            _ => refuse(rule("not for this GPU"), "vllm-hardware"),
        }
    }

    fn paged(&self, engine: Engine) -> (bool, Vec<Reason>) {
        if let Err(reasons) = self.paging() {
            return (false, reasons);
        }
        let mut reasons = Vec::new();
        if !self.is_many() {
            reasons.push(rule(format!(
                "{} users are few: it pays from about {MANY_USERS} on",
                self.load.users
            )));
        }
        let ids: &[&str] = match engine {
            Engine::Sglang => &["sglang-prefixes"],
            _ => &["vllm-paging", "vllm-gguf", "vllm-memory"],
        };
        reasons.extend(ids.iter().copied().filter_map(published));
        (true, reasons)
    }
}
