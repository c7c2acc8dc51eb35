//! Every point measured, and some points in turn: what `cargo xtask tune-check`
//! holds `sextant tune` against.

use std::time::Instant;

use clap::ArgMatches;
use config::Config;
use models::Found;
use serde_json::json;
use tuner::{Outcome as Ran, Part, Run, Sample};

use super::{Ask, Prepared, SIDES_MAX, prepare};
use crate::outcome::{Code, Outcome, fault};
use crate::output;

/// Runs of each point.
const REPEATS: usize = 3;

/// What is to be measured, by the places of points in the space.
pub(super) enum Asked {
    /// From a place on, until the time is over.
    Sweep { from: usize, seconds: f64 },
    /// Each of some points once a round; every other round the other way about.
    Rounds { places: Vec<usize>, rounds: usize },
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
            (Some([from, seconds]), _) => Some(Self::Sweep {
                from: *from,
                seconds: *seconds as f64,
            }),
            (_, Some([rounds, places @ ..])) => Some(Self::Rounds {
                places: places.to_vec(),
                rounds: *rounds,
            }),
            _ => None,
        })
    }
}

/// Prints a line of JSON for each run of a round, and for each point of a sweep.
pub(super) async fn run(config: &Config, found: &Found, ask: &Ask, asked: &Asked) -> Outcome {
    let sides_max = match asked {
        Asked::Sweep { .. } => SIDES_MAX,
        Asked::Rounds { places, .. } => places.len() as u64,
    };
    let mut prepared = prepare(config, found, ask, sides_max).await?;
    let result = match asked {
        Asked::Sweep { from, seconds } => sweep(&mut prepared, *from, *seconds).await,
        Asked::Rounds { places, rounds } => self::rounds(&mut prepared, places, *rounds).await,
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

async fn sweep(prepared: &mut Prepared, from: usize, seconds: f64) -> Outcome {
    let started = Instant::now();
    let points = prepared.values.space.points();
    for (place, point) in points.iter().enumerate().skip(from) {
        if started.elapsed().as_secs_f64() > seconds {
            break;
        }
        let begun = Instant::now();
        let mut samples = Vec::new();
        for pair in 0..REPEATS {
            let sample = once(prepared, place, pair).await?;
            samples.push(json!([
                sample.prefill_seconds_a_token,
                sample.decode_seconds_a_token
            ]));
        }
        let axes = prepared.values.space.axes.iter().enumerate();
        let labels = axes.map(|(axis, of)| of.levels[point.level(axis)].clone());
        output::line(
            &json!({
                "point": place,
                "of": points.len(),
                "levels": labels.collect::<Vec<_>>(),
                "samples": samples,
                "seconds": begun.elapsed().as_secs_f64(),
            })
            .to_string(),
        )?;
    }
    Ok(())
}

async fn rounds(prepared: &mut Prepared, places: &[usize], rounds: usize) -> Outcome {
    // One of each that does not count.
    for place in places {
        once(prepared, *place, 0).await?;
    }
    for round in 0..rounds {
        let mut order = places.to_vec();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let sample = once(prepared, place, round).await?;
            output::line(
                &json!({
                    "round": round,
                    "point": place,
                    "prefill": sample.prefill_seconds_a_token,
                    "decode": sample.decode_seconds_a_token,
                })
                .to_string(),
            )?;
        }
    }
    Ok(())
}
