//! The search: which run comes next.

mod leaders;

use std::collections::VecDeque;

use crate::noise::{Noise, median};
use crate::race::{Race, Stage, Standing};
use crate::verdict::{Gain, Judgement, Row, Verdict};
use crate::{Choice, Phase, Point, Space, Switch};

/// Runs of the defaults to begin with: what a run takes, and how much two of the same differ.
const CALIBRATION_RUNS: usize = 5;
/// The search leaves this share of the budget to the last comparison.
const FINAL_SHARE: f64 = 0.35;
/// And this as long as nothing is ahead.
const FINAL_SHARE_MIN: f64 = 0.25;
/// And no more than so many runs of both sides take.
const FINAL_PAIRS: f64 = 14.0;
/// A last comparison of fewer pairs than this had no time.
const FINAL_PAIRS_FEW: usize = 4;
/// A run may take so many times as long as those before it.
const COST_MARGIN: f64 = 1.25;
/// Costs that are remembered of a kind of run.
const COSTS_MAX: usize = 8;
/// A level that lost by more than this has no second chance.
const CLOSE: f64 = 1.10;
/// Times the axes are gone through.
const PASSES_MAX: usize = 3;
/// While there is time, races that stay open have so many times the pairs after which they would
/// be given up.
const PATIENCE: usize = 4;

/// What is computed: the shape of the requests that matter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Workload {
    /// Tokens of a prompt that are not cached.
    pub prompt_tokens: f64,
    pub answer_tokens: f64,
}

/// How sure it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    Quick,
    Usual,
    Thorough,
}

impl Effort {
    /// Pairs after which a race that is still open is put off until the others had theirs.
    fn look_pairs(self) -> usize {
        match self {
            Self::Quick | Self::Usual => 1,
            Self::Thorough => 4,
        }
    }

    /// Pairs after which a race is given up, unless there is time that nothing else wants.
    fn pairs_max(self) -> usize {
        match self {
            Self::Quick => 12,
            Self::Usual => 24,
            Self::Thorough => 48,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    pub budget_seconds: f64,
    pub workload: Workload,
    pub effort: Effort,
}

/// What a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Prefill,
    Decode,
    Both,
}

/// A run to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub point: Point,
    pub part: Part,
    /// The two runs of a pair have the same: what they compute may be the same too.
    pub pair: usize,
}

/// What a run took. A part that was not asked for is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    pub prefill_seconds_a_token: f64,
    pub decode_seconds_a_token: f64,
    /// All of it, with loading and waiting.
    pub took_seconds: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Measured(Sample),
    /// These settings do not work here; it took so long to find out.
    Failed {
        why: String,
        took_seconds: f64,
    },
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Tuner {
    space: Space,
    settings: Settings,
    state: State,
    incumbent: Point,
    queue: VecDeque<Choice>,
    /// Races that were still open after a few pairs.
    open: Vec<Contest>,
    pass: usize,
    noise: Noise,
    costs: Costs,
    spent_seconds: f64,
    rows: Vec<Row>,
    /// Levels that do not work.
    broken: Vec<Choice>,
    gain: Option<Gain>,
    is_cut: bool,
    failure: Option<String>,
    /// Whole runs of the defaults and of the winner.
    samples: Vec<(Point, Sample)>,
}

#[derive(Debug, Clone)]
enum State {
    Calibrating(Vec<Sample>),
    Racing(Contest),
    Done,
}

/// A race and its two sides.
#[derive(Debug, Clone)]
struct Contest {
    /// What is on trial, and what had to change with it; `None` in the final.
    choice: Option<(Choice, Option<Choice>)>,
    incumbent: Point,
    challenger: Point,
    part: Part,
    race: Race,
    /// It is put off after so many pairs.
    pairs_until: usize,
    /// Of the pair that is under way.
    first: Option<Sample>,
}

impl Contest {
    /// A B B A: who begins changes with each pair.
    fn is_challengers_turn(&self) -> bool {
        let challenger_begins = self.race.pairs.len() % 2 == 1;
        challenger_begins == self.first.is_none()
    }

    fn point(&self) -> &Point {
        match self.is_challengers_turn() {
            true => &self.challenger,
            false => &self.incumbent,
        }
    }

    fn stage(&self) -> Stage {
        match self.choice {
            Some(_) => Stage::Search,
            None => Stage::Final,
        }
    }
}

/// What runs took lately.
#[derive(Debug, Clone, Default)]
struct Costs {
    prefill: VecDeque<f64>,
    decode: VecDeque<f64>,
    both: VecDeque<f64>,
    load_seconds: f64,
}

impl Costs {
    fn add(&mut self, part: Part, seconds: f64) {
        let kind = match part {
            Part::Prefill => &mut self.prefill,
            Part::Decode => &mut self.decode,
            Part::Both => &mut self.both,
        };
        if kind.len() == COSTS_MAX {
            kind.pop_front();
        }
        kind.push_back(seconds);
    }

    /// What a run will take at most, as far as one can tell.
    fn expect(&self, part: Part) -> f64 {
        let most = |kind: &VecDeque<f64>| kind.iter().copied().max_by(f64::total_cmp);
        let of_part = match part {
            Part::Prefill => most(&self.prefill),
            Part::Decode => most(&self.decode),
            Part::Both => None,
        };
        of_part.or_else(|| most(&self.both)).unwrap_or(0.0) * COST_MARGIN
    }
}

impl Tuner {
    #[must_use]
    pub fn new(space: Space, settings: Settings) -> Self {
        let incumbent = space.default_point();
        let mut tuner = Self {
            queue: VecDeque::new(),
            open: Vec::new(),
            state: State::Calibrating(Vec::new()),
            incumbent,
            space,
            settings,
            pass: 0,
            noise: Noise::default(),
            costs: Costs::default(),
            spent_seconds: 0.0,
            rows: Vec::new(),
            broken: Vec::new(),
            gain: None,
            is_cut: false,
            failure: None,
            samples: Vec::new(),
        };
        tuner.queue = tuner.others();
        tuner
    }

    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The next run; `None` once everything is decided.
    #[must_use]
    pub fn step(&self) -> Option<Run> {
        match &self.state {
            State::Calibrating(samples) => Some(Run {
                point: self.incumbent.clone(),
                part: Part::Both,
                pair: samples.len(),
            }),
            State::Racing(contest) => Some(Run {
                point: contest.point().clone(),
                part: contest.part,
                pair: contest.race.pairs.len(),
            }),
            State::Done => None,
        }
    }

    /// Takes in what became of the run that [`Tuner::step`] has named.
    pub fn record(&mut self, outcome: Outcome) {
        let state = std::mem::replace(&mut self.state, State::Done);
        match (state, outcome) {
            (State::Calibrating(samples), Outcome::Measured(sample)) => {
                self.spend(Part::Both, &sample);
                self.samples.push((self.incumbent.clone(), sample));
                self.calibrate(samples, sample);
            }
            (State::Calibrating(_), Outcome::Failed { why, took_seconds }) => {
                self.spent_seconds += took_seconds;
                self.failure = Some(why);
            }
            (State::Racing(contest), Outcome::Measured(sample)) => {
                self.spend(contest.part, &sample);
                if contest.choice.is_none() {
                    self.samples.push((contest.point().clone(), sample));
                }
                self.race(contest, sample);
            }
            (State::Racing(contest), Outcome::Failed { why, took_seconds }) => {
                self.spent_seconds += took_seconds;
                self.fail(contest, why);
            }
            (State::Done, _) => {}
        }
    }

    /// What is known now; final once [`Tuner::step`] gives `None`.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let defaults = self.space.default_point();
        let stands = |gain: &&Gain| gain.judgement == Judgement::Faster;
        let winner = self.gain.as_ref().filter(stands);
        Verdict {
            winner: winner.map_or_else(|| defaults.clone(), |gain| gain.candidate.clone()),
            defaults,
            gain: self.gain.clone(),
            rows: self.rows.clone(),
            noise: self.noise.spread(&[]),
            spent_seconds: self.spent_seconds,
            is_cut: self.is_cut,
            failure: self.failure.clone(),
        }
    }

    /// Medians over the whole runs of a point: of the calibration and of the final.
    #[must_use]
    pub fn typical(&self, point: &Point) -> Option<Sample> {
        let of_point = || self.samples.iter().filter(|(known, _)| known == point);
        let middle = |value: fn(&Sample) -> f64| {
            let values: Vec<f64> = of_point().map(|(_, sample)| value(sample)).collect();
            (!values.is_empty()).then(|| median(&values))
        };
        Some(Sample {
            prefill_seconds_a_token: middle(|sample| sample.prefill_seconds_a_token)?,
            decode_seconds_a_token: middle(|sample| sample.decode_seconds_a_token)?,
            took_seconds: middle(|sample| sample.took_seconds)?,
        })
    }

    fn spend(&mut self, part: Part, sample: &Sample) {
        self.spent_seconds += sample.took_seconds;
        self.costs.add(part, sample.took_seconds);
    }

    /// The logarithm of what a run of this kind takes.
    fn time(&self, part: Part, sample: &Sample) -> f64 {
        let Workload {
            prompt_tokens,
            answer_tokens,
        } = self.settings.workload;
        let prefill = prompt_tokens * sample.prefill_seconds_a_token;
        let decode = answer_tokens * sample.decode_seconds_a_token;
        let seconds = match part {
            Part::Prefill => prefill,
            Part::Decode => decode,
            Part::Both => prefill + decode,
        };
        seconds.max(1e-12).ln()
    }

    fn calibrate(&mut self, mut samples: Vec<Sample>, sample: Sample) {
        samples.push(sample);
        // The first run comes with a load and cold caches: it says what a load takes.
        if samples.len() == 2 {
            let load = samples[0].took_seconds - samples[1].took_seconds;
            self.costs.load_seconds = load.max(0.0);
            self.costs.both.clear();
            self.costs.add(Part::Both, samples[1].took_seconds);
            self.samples.remove(0);
        }
        let next = self.costs.expect(Part::Both);
        if samples.len() < CALIBRATION_RUNS && self.can_spend(next) {
            self.state = State::Calibrating(samples);
            return;
        }
        let times = samples.iter().skip(1);
        let times: Vec<f64> = times.map(|one| self.time(Part::Both, one)).collect();
        let steps: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        self.noise.learn(&steps);
        self.next();
    }

    fn can_spend(&self, seconds: f64) -> bool {
        self.spent_seconds + seconds <= self.settings.budget_seconds
    }

    /// Whether there is time for something, and for the final after it.
    fn can_search(&self, seconds: f64) -> bool {
        let pair = 2.0 * self.costs.expect(Part::Both);
        let of_final = FINAL_PAIRS * pair + self.costs.load_seconds;
        let leads = |contest: &Contest| contest.race.leads(&self.noise);
        let has_found = self.incumbent != self.space.default_point() || self.open.iter().any(leads);
        let share = match has_found {
            true => FINAL_SHARE,
            false => FINAL_SHARE_MIN,
        };
        let reserve = of_final.min(self.settings.budget_seconds * share);
        self.can_spend(seconds + reserve)
    }

    /// All levels but the incumbent's.
    fn others(&self) -> VecDeque<Choice> {
        let axes = self.space.axes.iter().enumerate();
        let choices = axes.flat_map(|(axis, of)| {
            let levels = (0..of.levels.len()).map(move |level| Choice { axis, level });
            levels.filter(|choice| !self.incumbent.has(*choice))
        });
        choices.collect()
    }

    /// The next race, another pass, or the final.
    fn next(&mut self) {
        while let Some(choice) = self.queue.pop_front() {
            if self.incumbent.has(choice) || self.broken.contains(&choice) {
                continue;
            }
            let (challenger, also) = match self.challenger(choice) {
                Ok(challenger) => challenger,
                Err(other) => {
                    self.row((choice, None), &Race::default(), Judgement::Excluded(other));
                    continue;
                }
            };
            let part = match also {
                None => self.part(choice),
                Some(_) => Part::Both,
            };
            let load = match self.space.switch(&self.incumbent, &challenger) {
                Switch::Load => self.costs.load_seconds * COST_MARGIN,
                Switch::Live => 0.0,
            };
            if !self.can_search(2.0 * self.costs.expect(part) + load) {
                self.is_cut = true;
                self.row((choice, also), &Race::default(), Judgement::OutOfTime);
                continue;
            }
            self.state = State::Racing(Contest {
                choice: Some((choice, also)),
                incumbent: self.incumbent.clone(),
                challenger,
                part,
                race: Race::default(),
                pairs_until: self.settings.effort.look_pairs(),
                first: None,
            });
            return;
        }
        self.pass += 1;
        self.queue = self.second_chances();
        if !self.queue.is_empty() {
            return self.next();
        }
        if self.resume() {
            return;
        }
        self.adopt_leaders();
        self.last();
    }

    /// The incumbent with another level. Where the incumbent's level of another axis is in
    /// the way, that goes back to its default with it; what is still in the way is the error.
    fn challenger(&self, choice: Choice) -> Result<(Point, Option<Choice>), Choice> {
        let alone = self.incumbent.with(choice);
        let Some(pair) = self.space.forbids(&alone) else {
            return Ok((alone, None));
        };
        let other = pair.into_iter().find(|one| one.axis != choice.axis);
        let other = other.unwrap_or(choice);
        let back = Choice {
            axis: other.axis,
            level: self.space.axes[other.axis].default,
        };
        let both = alone.with(back);
        match self.space.forbids(&both) {
            None if both.has(choice) => Ok((both, Some(back))),
            _ => Err(other),
        }
    }

    fn part(&self, choice: Choice) -> Part {
        match self.space.axes[choice.axis].phase {
            Phase::Prefill => Part::Prefill,
            Phase::Decode => Part::Decode,
            Phase::Both => Part::Both,
        }
    }

    /// Levels that lost narrowly, or could not be, before something else changed.
    fn second_chances(&self) -> VecDeque<Choice> {
        let Some(changed) = self
            .rows
            .iter()
            .rposition(|row| row.judgement == Judgement::Faster)
        else {
            return VecDeque::new();
        };
        if self.pass >= PASSES_MAX || self.is_cut {
            return VecDeque::new();
        }
        let winner = self.rows[changed].choice;
        let mut chances = VecDeque::new();
        for (index, row) in self.rows.iter().enumerate().take(changed) {
            let is_last_of_it = !self.rows[index + 1..]
                .iter()
                .any(|later| later.choice == row.choice);
            let was_close = match row.judgement {
                Judgement::Excluded(_) => true,
                Judgement::Slower | Judgement::WithinNoise | Judgement::NotWorth => {
                    row.ratio.is_some_and(|ratio| ratio * CLOSE > 1.0)
                }
                _ => false,
            };
            let touches = self.shares_phase(row.choice, winner);
            if is_last_of_it && was_close && touches && row.choice.axis != winner.axis {
                chances.push_back(row.choice);
            }
        }
        chances
    }

    fn shares_phase(&self, one: Choice, other: Choice) -> bool {
        let (one, other) = (
            self.space.axes[one.axis].phase,
            self.space.axes[other.axis].phase,
        );
        one == other || one == Phase::Both || other == Phase::Both
    }

    fn race(&mut self, mut contest: Contest, sample: Sample) {
        let Some(first) = contest.first.take() else {
            contest.first = Some(sample);
            let next = self.costs.expect(contest.part);
            let has_time = self.can_spend(next);
            return match has_time {
                true => self.state = State::Racing(contest),
                false => self.put_off(contest),
            };
        };
        // The sides are those of the pair before it was complete.
        let challenger_began = contest.race.pairs.len() % 2 == 1;
        let (challenger, incumbent) = match challenger_began {
            true => (first, sample),
            false => (sample, first),
        };
        let pair = self.time(contest.part, &challenger) - self.time(contest.part, &incumbent);
        contest.race.pairs.push(pair);
        let share = self.share(contest.part);
        let judgement = match contest.race.standing(&self.noise, contest.stage(), share) {
            Standing::Faster => Judgement::Faster,
            Standing::Slower => Judgement::Slower,
            // Whether a leaner level costs anything is not known yet.
            Standing::NotWorth if self.is_leaner(&contest) && !self.is_as_good(&contest) => {
                return self.go_on(contest);
            }
            Standing::NotWorth => Judgement::NotWorth,
            Standing::Open => return self.go_on(contest),
        };
        self.decide(&contest, judgement);
    }

    /// What a part takes of a request's time, by the runs of the defaults.
    fn share(&self, part: Part) -> f64 {
        let typical = self.typical(&self.space.default_point());
        let seconds = |part| typical.map_or(0.0, |sample| self.time(part, &sample).exp());
        match part {
            Part::Both => 1.0,
            part => seconds(part) / seconds(Part::Both).max(1e-12),
        }
    }

    /// One more pair, or later, or never.
    fn go_on(&mut self, contest: Contest) {
        let n = contest.race.pairs.len();
        let pair = 2.0 * self.costs.expect(contest.part);
        let (has_time, is_last) = match contest.stage() {
            Stage::Search => (self.can_search(pair), n >= contest.pairs_until),
            Stage::Final | Stage::LastLook => (self.can_spend(pair), false),
        };
        let is_given_up = n >= PATIENCE * self.settings.effort.pairs_max();
        if contest.stage() == Stage::Final && (!has_time || is_given_up) {
            return self.last_look(&contest);
        }
        if is_given_up {
            return self.decide(&contest, Judgement::WithinNoise);
        }
        match has_time && !is_last {
            true => self.state = State::Racing(contest),
            false => self.put_off(contest),
        }
    }

    /// No more pairs: the final as it stands.
    fn last_look(&mut self, contest: &Contest) {
        let judgement = match contest.race.standing(&self.noise, Stage::LastLook, 1.0) {
            Standing::Faster => Judgement::Faster,
            Standing::Slower => Judgement::Slower,
            Standing::NotWorth => Judgement::NotWorth,
            Standing::Open if contest.race.pairs.len() < FINAL_PAIRS_FEW => Judgement::OutOfTime,
            Standing::Open => Judgement::WithinNoise,
        };
        self.decide(contest, judgement);
    }

    fn decide(&mut self, contest: &Contest, judgement: Judgement) {
        let is_as_good = self.is_as_good(contest);
        self.noise.learn(&contest.race.pairs);
        let Some(choice) = contest.choice else {
            let estimate = contest.race.estimate(&self.noise);
            self.gain = estimate.map(|of| Gain {
                candidate: contest.challenger.clone(),
                judgement,
                ratio: of.ratio.recip(),
                low: of.high.recip(),
                high: of.low.recip(),
                n_pairs: contest.race.pairs.len(),
            });
            self.state = State::Done;
            return;
        };
        self.is_cut |= judgement == Judgement::OutOfTime;
        let judgement = match judgement {
            Judgement::NotWorth | Judgement::WithinNoise if is_as_good => Judgement::AsFast,
            other => other,
        };
        let has_won = matches!(judgement, Judgement::Faster | Judgement::AsFast);
        self.row(choice, &contest.race, judgement);
        if has_won {
            self.incumbent = contest.challenger.clone();
            self.race_again(choice.0.axis);
        }
        self.next();
    }

    /// Whether the challenger differs by a level alone that takes less than the incumbent's.
    fn is_leaner(&self, contest: &Contest) -> bool {
        let Some((choice, None)) = contest.choice else {
            return false;
        };
        let axis = &self.space.axes[choice.axis];
        axis.is_leaner(choice.level, self.incumbent.level(choice.axis))
    }

    /// Whether such a level costs no speed.
    fn is_as_good(&self, contest: &Contest) -> bool {
        self.is_leaner(contest) && contest.race.is_as_fast(&self.noise)
    }

    fn fail(&mut self, contest: Contest, why: String) {
        match contest.choice {
            Some((choice, also)) if contest.is_challengers_turn() => {
                self.broken.push(choice);
                let choice = (choice, also);
                self.row(choice, &contest.race, Judgement::Failed(why));
                self.next();
            }
            // What ran before does not run any more: nothing is believed then.
            _ => {
                self.failure = Some(why);
                self.gain = None;
                self.state = State::Done;
            }
        }
    }

    fn row(&mut self, (choice, also): (Choice, Option<Choice>), race: &Race, judgement: Judgement) {
        let estimate = race.estimate(&self.noise);
        self.rows.push(Row {
            choice,
            against: Choice {
                axis: choice.axis,
                level: self.incumbent.level(choice.axis),
            },
            also,
            n_pairs: race.pairs.len(),
            ratio: estimate.map(|of| of.ratio.recip()),
            low: estimate.map(|of| of.high.recip()),
            high: estimate.map(|of| of.low.recip()),
            judgement,
        });
    }

    /// The winner of the search against the defaults.
    fn last(&mut self) {
        let defaults = self.space.default_point();
        if self.incumbent == defaults {
            self.state = State::Done;
            return;
        }
        let load = match self.space.switch(&self.incumbent, &defaults) {
            Switch::Load => self.costs.load_seconds * COST_MARGIN,
            Switch::Live => 0.0,
        };
        if !self.can_spend(2.0 * self.costs.expect(Part::Both) + load) {
            self.is_cut = true;
            self.state = State::Done;
            return;
        }
        self.state = State::Racing(Contest {
            choice: None,
            challenger: self.incumbent.clone(),
            incumbent: defaults,
            part: Part::Both,
            race: Race::default(),
            pairs_until: usize::MAX,
            first: None,
        });
    }
}
