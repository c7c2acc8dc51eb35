//! The figures that the history has, each with its number in the file and its name for programs.

/// What of a figure's spread is worth showing beside its mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Mean,
    /// And the most.
    High,
    /// And the least.
    Low,
    Both,
}

/// Declares the figures. A number is never given to another figure: files have them.
macro_rules! figures {
    ($($(#[$doc:meta])* $id:ident = $number:literal, $word:literal, $shown:ident;)*) => {
        /// A figure of the endpoint or its machine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Figure { $($(#[$doc])* $id),* }

        impl Figure {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id),*];

            /// Its name for programs, which ends in its unit where it has one.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$id => $word),* }
            }

            /// What is shown of it.
            #[must_use]
            pub const fn shown(self) -> Shown {
                match self { $(Self::$id => Shown::$shown),* }
            }

            pub(super) const fn number(self) -> u8 {
                match self { $(Self::$id => $number),* }
            }

            pub(super) const fn of_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$id),)* _ => None }
            }
        }
    };
}

figures! {
    /// Tokens of prompts that models of this process computed, a second.
    ReadTps = 1, "read_tps", High;
    /// Tokens of prompts that came from their caches, a second.
    CachedTps = 2, "cached_tps", Mean;
    /// Tokens that they generated, a second.
    SaidTps = 3, "said_tps", High;
    /// Tokens a second of a prompt while it was computed; of answers that ended.
    PrefillSpeed = 4, "prefill_speed_tps", Both;
    /// Tokens a second of an answer while it was written; of answers that ended.
    DecodeSpeed = 5, "decode_speed_tps", Both;
    /// Requests that slots of engines work on.
    Running = 6, "running", High;
    /// Requests that wait for a slot or for their model.
    Queued = 7, "queued", High;
    /// Jobs that ended with an answer, a minute.
    AnsweredPerMin = 8, "answered_per_min", Mean;
    /// Jobs that failed, a minute.
    FailedPerMin = 9, "failed_per_min", Mean;
    /// Cells of KV caches: all of them.
    KvCells = 10, "kv_cells", Mean;
    /// Those of running requests.
    KvRunning = 11, "kv_running_cells", High;
    /// Those kept for reuse.
    KvCached = 12, "kv_cached_cells", Mean;
    /// Bytes of KV caches: all of them.
    KvBytes = 13, "kv_bytes", Mean;
    /// Those whose cells are in use.
    KvUsed = 14, "kv_used_bytes", High;
    /// What the ledger counts for all models.
    Models = 15, "models_bytes", Mean;
    /// What the kernel could give without swapping.
    Available = 16, "available_bytes", Low;
    /// What the ledger counts on GPUs.
    GpuModels = 17, "gpu_models_bytes", Mean;
    /// What GPUs say is taken of their own memory.
    GpuUsed = 18, "gpu_used_bytes", High;
    /// Share of all cores that is at work, 0 to 1.
    Busy = 19, "busy_share", High;
    /// Cores' worth that this program and its engines take.
    OwnCores = 20, "own_cores", High;
    /// The hottest place of the machine.
    Celsius = 21, "celsius", High;
    /// The hottest GPU.
    GpuCelsius = 22, "gpu_celsius", High;
    /// Share of the busiest GPU that is at work, 0 to 1.
    GpuBusy = 23, "gpu_busy_share", High;
    /// Share of the time in which the machine lowered its clocks because of heat or its supply.
    Throttled = 24, "throttled_share", Mean;
}

impl Figure {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place among all.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_and_names_are_each_ones_own() {
        let numbers: BTreeSet<_> = Figure::ALL.iter().map(|one| one.number()).collect();
        let words: BTreeSet<_> = Figure::ALL.iter().map(|one| one.word()).collect();
        assert_eq!((numbers.len(), words.len()), (Figure::COUNT, Figure::COUNT));
        for figure in Figure::ALL {
            assert_eq!(Figure::of_number(figure.number()), Some(*figure));
            assert_eq!(Figure::ALL[figure.index()], *figure);
            // The highest bit of the number has a meaning of its own in the file.
            assert!(figure.number() < 0x80);
        }
    }
}
