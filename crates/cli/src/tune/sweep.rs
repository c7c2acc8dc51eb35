//! Every point measured, and two points against each other: what `cargo xtask tune-check`
//! holds `sextant tune` against.

use std::time::Instant;

use clap::ArgMatches;
use config::Config;
use models::Found;
use serde_json::json;
use tuner::{Outcome as Ran, Part, Run, Sample};

use super::{Ask, Prepared, prepare};
use crate::outcome::{Code, Outcome, fault};
use crate::output;

/// Runs of each point.
const REPEATS: usize = 3;

/// What is to be measured, by the places of points in the space.
pub(super) enum Asked {
    /// From a place on, until the time is over.
    Sweep { from: usize, seconds: f64 },
    /// Pairs of two points, in turn.
    Duel {
        one: usize,
        other: usize,
        pairs: usize,
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
        let duel = numbers("duel")?;
        Ok(match (sweep.as_deref(), duel.as_deref()) {
            (Some([from, seconds]), _) => Some(Self::Sweep {
                from: *from,
                seconds: *seconds as f64,
            }),
            (_, Some([one, other, pairs])) => Some(Self::Duel {
                one: *one,
                other: *other,
                pairs: *pairs,
            }),
            _ => None,
        })
    }
}

/// Prints a line of JSON for each run of a duel, and for each point of a sweep.
pub(super) async fn run(config: &Config, found: &Found, ask: &Ask, asked: &Asked) -> Outcome {
    let mut prepared = prepare(config, found, ask).await?;
    let result = match asked {
        Asked::Sweep { from, seconds } => sweep(&mut prepared, *from, *seconds).await,
        Asked::Duel { one, other, pairs } => duel(&mut prepared, [*one, *other], *pairs).await,
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

async fn duel(prepared: &mut Prepared, places: [usize; 2], pairs: usize) -> Outcome {
    // One of each that does not count.
    for place in places {
        once(prepared, place, 0).await?;
    }
    for pair in 0..pairs {
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let sample = once(prepared, places[side], pair).await?;
            output::line(
                &json!({
                    "pair": pair,
                    "side": side,
                    "prefill": sample.prefill_seconds_a_token,
                    "decode": sample.decode_seconds_a_token,
                })
                .to_string(),
            )?;
        }
    }
    Ok(())
}
