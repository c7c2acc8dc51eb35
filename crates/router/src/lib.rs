//! Where a request goes, and why.
//!
//! [`decide`] is a pure function from what is asked ([`Ask`]), what is there ([`Fleet`]) and
//! what the operator wants ([`Policy`]) to a [`Decision`]: the candidates in the order in
//! which they are tried, and every one that was left out with its reason. Beside it stands
//! what a fleet's picture is made from: [`Standing`] remembers how a provider has done, and
//! [`Rules`] look at the text of a request for what must not leave this machine.
//!
//! Nothing here does input or output, and time comes from the caller. `docs/routing.md`
//! tells the order of decisions in the words of [`Exclusion`] and [`Advantage`].

mod ask;
mod breaker;
mod decide;
mod decision;
mod fleet;
mod policy;
mod reach;
mod rules;
mod standing;
#[cfg(test)]
mod tests;

pub use ask::{Ask, Needs, Task, Wanted};
pub use breaker::{BREAKER_PAUSE, BREAKER_PAUSE_MAX, Breaker, FAILURES_MAX};
pub use decide::decide;
pub use decision::{Advantage, Candidate, Decision, Excluded, Exclusion, Route, Target};
pub use fleet::{
    Availability, Capability, Fleet, Knowledge, LATEST, Load, Model, Provider, same_name, untagged,
};
pub use policy::{Policy, PolicyError};
pub use reach::{Bound, Limit, Reach};
pub use rules::{Rule, RuleError, Rules};
pub use standing::{COOLING_DEFAULT, COOLING_MAX, Outcome, Standing};
