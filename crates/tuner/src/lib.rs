//! Which settings of a model are fastest on this machine, by as few runs as it takes.
//!
//! [`Tuner`] is a state machine: [`Tuner::step`] names the next run, the caller makes it and
//! gives its times to [`Tuner::record`], and in the end [`Tuner::verdict`] says what won and
//! why. It has no clock, process or file of its own.
//!
//! **Search.** Coordinate descent from the defaults: one axis after another, in the caller's
//! order, each level against the incumbent (Hooke and Jeeves, 1961, without pattern moves).
//! Where something has won, levels that had lost narrowly on other axes have a second chance.
//!
//! **Comparison.** Runs of the two sides alternate as A B B A, so that a slow drift (heat, a
//! neighbour) is in both. Each pair gives the logarithm of a ratio of times. Their middle (of
//! Hodges and Lehmann, 1963; the median of fewer than five) is judged against its standard
//! error, with the spread from the median absolute deviation of this race and of all before
//! it. A race ends as soon as it is decided (the racing of Maron and Moore, 1994), with fewer
//! pairs the clearer it is. What one pair does not decide is put off; the time that is left
//! then goes to what may gain most, and what leads in the end without being sure takes part
//! in the last comparison.
//!
//! **Courtesy.** Of levels that are equally fast, within what can be told, the one that takes
//! less from others on the machine wins ([`Axis::takes`]): a core that adds nothing is left to
//! whoever keeps it busy. Alone this changes nothing, since the last comparison wants a gain.
//!
//! **Winner's curse.** What wins many comparisons is in part lucky. So the winner meets the
//! defaults once more in fresh pairs, at a stricter level, and these alone give the gain that
//! is told. Where they do not show one the defaults stay.
//!
//! [`cores`] makes the levels of the axes that choose cores, [`Gate`] says when a hot machine
//! must cool down before the next run, [`Again`] which runs a host has disturbed so much that
//! they are made again, and [`Recheck`] notices that a choice has stopped to be fast.

mod again;
pub mod cores;
mod gate;
mod noise;
mod race;
mod recheck;
mod search;
mod space;
mod verdict;

pub use again::{Again, STOLEN_PERCENT_MAX};
pub use gate::{Gate, Wait};
pub use noise::median;
pub use recheck::{Answer, Recheck, Speeds, Stale};
pub use search::{Effort, Outcome, Part, Run, Sample, Settings, Tuner, Workload};
pub use space::{Axis, Choice, Phase, Point, Space, Switch};
pub use verdict::{Gain, Judgement, Row, Verdict};
