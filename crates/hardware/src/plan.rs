//! Which cores to compute on.
//!
//! A pass over a model ends when its slowest thread does, so little cores stay out where
//! there are big ones, and of a core's two threads one. What the affinity mask and the
//! control groups do not allow is not used, nor more CPUs than a quota pays for.

use crate::{CpuSet, Limits, Processor};

/// Cores for the two kinds of work, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorePlan {
    /// Those this process may use at all.
    pub usable: CpuSet,
    /// For one token after another, which waits for memory.
    pub decode: Choice,
    /// For a prompt, which waits for arithmetic.
    pub prefill: Choice,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub cpus: CpuSet,
    pub reasons: Vec<Reason>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Cores differ; the little ones would be waited for.
    BigOnly {
        n_little: usize,
    },
    /// Cores differ, and only little ones may be used.
    LittleOnly,
    /// One thread a core.
    OneThreadACore {
        n_threads: usize,
    },
    /// The affinity mask or a control group leaves this many of those there are.
    Allowed {
        n_allowed: usize,
        n_online: usize,
    },
    Quota {
        milli_cpus: u64,
    },
    /// All alike and all allowed.
    All,
}

impl CorePlan {
    #[must_use]
    pub fn new(processor: &Processor, limits: &Limits) -> Self {
        let online = processor.online();
        let usable = limits.usable(&online);
        let mut reasons = Vec::new();
        if usable.len() < online.len() {
            reasons.push(Reason::Allowed {
                n_allowed: usable.len(),
                n_online: online.len(),
            });
        }
        let big = usable.and(&processor.big());
        let chosen = if big.is_empty() {
            if !usable.is_empty() {
                reasons.push(Reason::LittleOnly);
            }
            usable.clone()
        } else {
            let little = usable.without(&big);
            if !little.is_empty() {
                reasons.push(Reason::BigOnly {
                    n_little: processor.one_a_core(&little).len(),
                });
            }
            big
        };
        let cores = processor.one_a_core(&chosen);
        if cores.len() < chosen.len() {
            reasons.push(Reason::OneThreadACore {
                n_threads: chosen.len(),
            });
        }
        let within = match limits.quota_cpus() {
            Some(quota) if quota < cores.len() => {
                reasons.push(Reason::Quota {
                    milli_cpus: limits.quota_milli_cpus.unwrap_or(0),
                });
                cores.first_n(quota)
            }
            _ => cores,
        };
        if reasons.is_empty() {
            reasons.push(Reason::All);
        }
        let choice = Choice {
            cpus: within,
            reasons,
        };
        Self {
            usable,
            decode: choice.clone(),
            prefill: choice,
        }
    }

    /// Threads for both, at least one.
    #[must_use]
    pub fn threads(&self) -> u32 {
        u32::try_from(self.decode.cpus.len())
            .unwrap_or(u32::MAX)
            .max(1)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BigOnly { n_little } => {
                write!(
                    f,
                    "big cores only: a pass would wait for the {n_little} little"
                )?;
                f.write_str(if *n_little == 1 { " one" } else { " ones" })
            }
            Self::LittleOnly => f.write_str("only little cores may be used"),
            Self::OneThreadACore { n_threads } => write!(
                f,
                "one thread a core: {n_threads} threads share these cores' arithmetic and memory"
            ),
            Self::Allowed {
                n_allowed,
                n_online,
            } => write!(
                f,
                "the affinity mask or a control group allows {n_allowed} of {n_online} CPUs"
            ),
            Self::Quota { milli_cpus } => write!(
                f,
                "a control group pays for {} CPUs",
                *milli_cpus as f64 / 1e3
            ),
            Self::All => f.write_str("all cores: they are alike"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recording, Root};

    fn plan(text: &str) -> CorePlan {
        let root = Root::recorded(Recording::parse(text).unwrap());
        CorePlan::new(&Processor::read(&root), &Limits::read(&root))
    }

    const TREE: &str = "/sys/devices/system/cpu/";

    #[test]
    fn threads_of_one_core_count_once() {
        let text = format!("{TREE}cpu{{0-1}}/topology/thread_siblings_list = {{}},{{+2}}\n");
        let text = format!("{text}{TREE}cpu{{2-3}}/topology/thread_siblings_list = {{-2}},{{}}\n");
        let plan = plan(&text);
        assert_eq!(plan.decode.cpus.to_string(), "0-1");
        let reason = Reason::OneThreadACore { n_threads: 4 };
        assert_eq!(plan.decode.reasons, [reason]);
    }

    #[test]
    fn little_cores_do_not_count() {
        let cpus = format!("{TREE}cpu{{0-4}}/topology/thread_siblings_list = {{}}\n");
        let little = format!("{cpus}{TREE}cpu{{0-1}}/cpu_capacity = 379\n");
        let both = format!("{little}{TREE}cpu{{2-4}}/cpu_capacity = 1024\n");
        assert_eq!(plan(&both).decode.cpus.to_string(), "2-4");
        let root = Root::recorded(Recording::parse(&both).unwrap());
        let cores = crate::DefaultCores::of(plan(&both), &Processor::read(&root));
        assert_eq!(cores.cpus.unwrap().to_string(), "2-4");
        let root = Root::recorded(Recording::parse(&cpus).unwrap());
        let alike = crate::DefaultCores::of(plan(&cpus), &Processor::read(&root));
        assert_eq!(alike.cpus, None, "no reason to bind");
        // All that may be used are little: better they than none.
        let masked = format!("{both}/proc/self/status:\n| Cpus_allowed_list:\t0-1\n");
        let plan = plan(&masked);
        assert_eq!(plan.threads(), 2);
        assert!(plan.decode.reasons.contains(&Reason::LittleOnly));
    }

    #[test]
    fn a_quota_pays_for_so_many() {
        let cpus = format!("{TREE}online = 0-7\n/proc/self/cgroup = 0::/\n");
        for (max, threads) in [("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8)] {
            let text = format!("{cpus}/sys/fs/cgroup/cpu.max = {max}\n");
            assert_eq!(plan(&text).threads(), threads, "{max}");
        }
    }

    #[test]
    fn an_unreadable_machine_has_one_thread() {
        let plan = plan("");
        assert_eq!(plan.threads(), 1);
        assert!(plan.decode.cpus.is_empty());
    }
}
