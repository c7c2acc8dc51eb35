//! What becomes of races that a few pairs do not decide.
//!
//! They are put off until every level has had its few pairs. The time that is left then goes to
//! whichever may gain most, two pairs at a time, first to those that have had fewer than is usual;
//! and what leads in the end takes part in the last comparison although it is not sure: several
//! gains, each too small to be seen alone, may be seen together.

use super::{COST_MARGIN, Contest, Tuner};
use crate::race::Stage;
use crate::verdict::Judgement;
use crate::{Choice, Point, Switch};

/// Pairs of a race that is taken up again: A B B A.
const MORE_PAIRS: usize = 2;

impl Tuner {
    pub(super) fn put_off(&mut self, contest: Contest) {
        match contest.stage() {
            Stage::Final | Stage::LastLook => self.last_look(&contest),
            Stage::Search => {
                self.noise.learn(&contest.race.pairs);
                self.open.push(contest);
                self.next();
            }
        }
    }

    /// Something else has won on this axis: its open races begin anew against that.
    pub(super) fn race_again(&mut self, axis: usize) {
        let is_on = |contest: &Contest| {
            let choice = contest.choice;
            choice.is_some_and(|(choice, _)| choice.axis == axis)
        };
        let (again, open) = std::mem::take(&mut self.open).into_iter().partition(is_on);
        self.open = open;
        let again: Vec<Contest> = again;
        let choices = again.into_iter().filter_map(|contest| contest.choice);
        self.queue.extend(choices.map(|(choice, _)| choice));
    }

    /// Goes on with the open race that may gain most; says whether there was one, and time.
    pub(super) fn resume(&mut self) -> bool {
        let promise = |contest: &Contest| {
            let of_part = contest.race.promise(&self.noise);
            of_part * self.share(contest.part)
        };
        // Those that have had their pairs come last.
        let pairs_max = self.settings.effort.pairs_max();
        let rank = |at: usize| {
            let contest = &self.open[at];
            (contest.race.pairs.len() < pairs_max, promise(contest))
        };
        let most = (0..self.open.len()).max_by(|a, b| {
            let (a, b) = (rank(*a), rank(*b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let Some(most) = most else {
            return false;
        };
        let contest = &self.open[most];
        let Some(challenger) = self.with_all(contest.choice) else {
            let contest = self.open.remove(most);
            self.decide(&contest, Judgement::WithinNoise);
            return true;
        };
        let load = match self.space.switch(&self.incumbent, &challenger) {
            Switch::Load => self.costs.load_seconds * COST_MARGIN,
            Switch::Live => 0.0,
        };
        if !self.can_search(2.0 * self.costs.expect(contest.part) + load) {
            return false;
        }
        let contest = self.open.remove(most);
        self.state = super::State::Racing(Contest {
            // What has won elsewhere meanwhile is on both sides; ratios carry over.
            incumbent: self.incumbent.clone(),
            challenger,
            pairs_until: contest.race.pairs.len() + MORE_PAIRS,
            ..contest
        });
        true
    }

    /// The incumbent with a level and what has to change with it, where that can be.
    fn with_all(&self, choice: Option<(Choice, Option<Choice>)>) -> Option<Point> {
        let (choice, also) = choice?;
        let mut point = self.incumbent.with(choice);
        if let Some(also) = also {
            point = point.with(also);
        }
        self.space.forbids(&point).is_none().then_some(point)
    }

    /// Closes what is still open: what leads is among the incumbent's levels from now on, the
    /// largest lead first.
    pub(super) fn adopt_leaders(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        let lead = |contest: &Contest| contest.race.middle() * self.share(contest.part);
        open.sort_by(|a, b| lead(a).total_cmp(&lead(b)));
        let mut taken: Vec<usize> = Vec::new();
        for contest in open {
            let Some((choice, also)) = contest.choice else {
                continue;
            };
            let axes: Vec<usize> = [Some(choice), also]
                .iter()
                .flatten()
                .map(|choice| choice.axis)
                .collect();
            let is_free = !axes.iter().any(|axis| taken.contains(axis));
            let is_as_good = self.is_as_good(&contest);
            let leads = is_free && (contest.race.leads(&self.noise) || is_as_good);
            let point = self.with_all(contest.choice).filter(|_| leads);
            let trails = contest.race.trails(&self.noise);
            let judgement = match (&point, contest.race.pairs.len()) {
                (Some(_), _) if is_as_good => Judgement::AsFast,
                (Some(_), _) => Judgement::Leads,
                (None, 0) => Judgement::OutOfTime,
                // A single pair may be a disturbed one.
                (None, 1) if trails => Judgement::OutOfTime,
                (None, _) if trails => Judgement::Slower,
                (None, _) => Judgement::WithinNoise,
            };
            self.is_cut |= contest.race.pairs.len() < self.settings.effort.pairs_max();
            self.row((choice, also), &contest.race, judgement);
            if let Some(point) = point {
                self.incumbent = point;
                taken.extend(axes);
            }
        }
    }
}
