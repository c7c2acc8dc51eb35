//! Every point measured, and some points in turn: what `cargo xtask tune-check`
//! holds `sextant tune` against.
//!
//! A sweep goes over all points several times, each time in another order, so that what a
//! point took is not that of one moment. Points that share a process stay together, or a
//! sweep would be loading most of the time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::Instant;

use clap::ArgMatches;
use config::Config;
use models::Found;
use serde_json::{Value, json};
use tuner::{Outcome as Ran, Part, Run, Sample, Space, Switch};

use super::{Ask, Prepared, SIDES_MAX, prepare};
use crate::outcome::{Code, Outcome, fault};
use crate::output;

/// What is to be measured, by the places of points in the space.
pub(super) enum Asked {
    /// One pass over all points, from a place in its order on, until the time is over.
    Sweep {
        pass: usize,
        from: usize,
        seconds: f64,
    },
    /// Each of some points once a round; every other round the other way about. Rounds are
    /// numbered from `first`.
    Rounds {
        first: usize,
        rounds: usize,
        places: Vec<usize>,
    },
}

impl Asked {
    pub(super) fn read(matches: &ArgMatches) -> Outcome<Option<Self>> {
        let numbers = |name: &str| -> Outcome<Option<Vec<usize>>> {
            let Some(text) = matches.get_one::<String>(name) else {
                return Ok(None);
            };
            let numbers: Result<Vec<usize>, _> = text.split(':').map(str::parse).collect();
            let wrong = || fault(Code::Usage, format!("`--{name}` is `{text}`"));
            numbers.map(Some).map_err(|_| wrong())
        };
        let sweep = numbers("sweep")?;
        let rounds = numbers("rounds")?;
        Ok(match (sweep.as_deref(), rounds.as_deref()) {
            (Some([pass, from, seconds]), _) => Some(Self::Sweep {
                pass: *pass,
                from: *from,
                seconds: *seconds as f64,
            }),
            (_, Some([first, rounds, places @ ..])) => Some(Self::Rounds {
                first: *first,
                rounds: *rounds,
                places: places.to_vec(),
            }),
            (None, None) => None,
            _ => {
                let message = "`--sweep` is PASS:FROM:SECONDS, `--rounds` FIRST:ROUNDS:PLACE...";
                return Err(fault(Code::Usage, message));
            }
        })
    }
}

/// Prints a line of JSON for each run.
pub(super) async fn run(config: &Config, found: &Found, ask: &Ask, asked: &Asked) -> Outcome {
    let sides_max = match asked {
        Asked::Sweep { .. } => SIDES_MAX,
        Asked::Rounds { places, .. } => places.len() as u64,
    };
    let mut prepared = prepare(config, found, ask, sides_max).await?;
    let result = match asked {
        Asked::Sweep {
            pass,
            from,
            seconds,
        } => sweep(&mut prepared, (*pass, *from), *seconds).await,
        Asked::Rounds {
            first,
            rounds,
            places,
        } => self::rounds(&mut prepared, places, *first..first + rounds).await,
    };
    prepared.bench.fleet().shutdown().await;
    result
}

async fn once(prepared: &mut Prepared, place: usize, pair: usize) -> Outcome<Sample> {
    let point = prepared.values.space.points().into_iter().nth(place);
    let point = point.ok_or_else(|| fault(Code::Usage, format!("there is no point {place}")))?;
    let run = Run {
        point,
        part: Part::Both,
        pair,
    };
    match prepared.bench.run(&prepared.values, &run).await {
        Ran::Measured(sample) => Ok(sample),
        Ran::Failed { why, .. } => Err(fault(Code::Failure, why)),
    }
}

async fn sweep(prepared: &mut Prepared, (pass, from): (usize, usize), seconds: f64) -> Outcome {
    let started = Instant::now();
    let order = order(&prepared.values.space, pass);
    for (index, place) in order.iter().enumerate().skip(from) {
        if started.elapsed().as_secs_f64() > seconds {
            break;
        }
        // All points of a pass say the same, as far as their rounding allows.
        let sample = once(prepared, *place, pass).await?;
        let mut line = told(prepared, *place, &sample);
        line["pass"] = json!(pass);
        line["index"] = json!(index);
        line["of"] = json!(order.len());
        line["levels"] = json!(levels(&prepared.values.space, *place));
        output::line(&line.to_string())?;
    }
    Ok(())
}

async fn rounds(prepared: &mut Prepared, places: &[usize], rounds: Range<usize>) -> Outcome {
    // One of each that does not count.
    for place in places {
        once(prepared, *place, 0).await?;
    }
    for round in rounds {
        let mut order = places.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let sample = once(prepared, place, round).await?;
            let mut line = told(prepared, place, &sample);
            line["round"] = json!(round);
            output::line(&line.to_string())?;
        }
    }
    Ok(())
}

/// What a run took, without attempts that do not count.
fn told(prepared: &Prepared, place: usize, sample: &Sample) -> Value {
    let made = prepared.bench.made();
    json!({
        "point": place,
        "prefill": sample.prefill_seconds_a_token,
        "decode": sample.decode_seconds_a_token,
        "seconds": sample.took_seconds - made.wasted_seconds,
        "stolen": made.stolen_percent,
        "attempts": made.attempts,
    })
}

fn levels(space: &Space, place: usize) -> Vec<String> {
    let point = space.points().into_iter().nth(place);
    let axes = space.axes.iter().enumerate();
    let labels = axes.filter_map(|(axis, of)| of.levels.get(point.as_ref()?.level(axis)).cloned());
    labels.collect()
}

/// The places of all points in the order of a pass: processes in a random order, and in a
/// random order the points of each.
fn order(space: &Space, pass: usize) -> Vec<usize> {
    let points = space.points();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (place, point) in points.iter().enumerate() {
        let shares = |group: &&mut Vec<usize>| {
            let first = group.first().map(|first| &points[*first]);
            first.is_some_and(|first| space.switch(first, point) == Switch::Live)
        };
        match groups.iter_mut().find(shares) {
            Some(group) => group.push(place),
            None => groups.push(vec![place]),
        }
    }
    // The same each time, so that a pass goes on where it was stopped.
    let lot = |place: usize| {
        let mut hasher = DefaultHasher::new();
        (pass, place).hash(&mut hasher);
        hasher.finish()
    };
    for group in &mut groups {
        group.sort_by_key(|place| lot(*place));
    }
    groups.sort_by_key(|group| group.first().map(|first| lot(*first)));
    groups.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tuner::{Axis, Phase};

    use super::*;

    #[test]
    fn each_pass_has_every_point_once_in_an_order_of_its_own() {
        let axis = |switch, n_levels: usize| Axis {
            name: String::new(),
            phase: Phase::Both,
            switch,
            levels: vec![String::new(); n_levels],
            default: 0,
            takes: Vec::new(),
        };
        let space = Space {
            axes: vec![
                axis(Switch::Live, 2),
                axis(Switch::Load, 3),
                axis(Switch::Load, 2),
                axis(Switch::Live, 3),
            ],
            forbidden: Vec::new(),
        };
        let points = space.points();
        let passes = [0, 1, 2].map(|pass| order(&space, pass));
        for pass in &passes {
            let places: BTreeSet<usize> = pass.iter().copied().collect();
            assert_eq!(places, (0..36).collect());
            let pairs = pass.windows(2);
            let loads =
                pairs.filter(|two| space.switch(&points[two[0]], &points[two[1]]) == Switch::Load);
            assert_eq!(loads.count(), 5, "six processes, one after the other");
        }
        assert!(passes[0] != passes[1] && passes[1] != passes[2]);
        assert_eq!(passes[1], order(&space, 1));
    }
}
