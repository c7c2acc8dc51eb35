//! Our own agent, driven: requests over HTTP, tools in the folder of the attempt.

use std::time::{Duration, Instant};

use bench::agents::{Check, Ended, Limits, Next, Talk, Task};

use super::folder::Folder;
use super::{Place, Went};
use crate::bench::ask::post;
use crate::http::Server;
use crate::outcome::Outcome;

/// Lets a model work on a task for so long.
pub(super) async fn run(
    server: &Server,
    place: &Place<'_>,
    folder: &Folder,
    time_max: Duration,
) -> Outcome<Went> {
    let is_call = matches!(place.task.check, Check::Call(_));
    let limits = match is_call {
        // The first answer is what is asked for.
        true => Limits {
            turns: 1,
            ..Limits::default()
        },
        false => Limits::default(),
    };
    let started = Instant::now();
    let mut talk = Talk::new(place.model, &place.task.prompt(), place.repeat, limits);
    while let Some(request) = talk.request() {
        let left = time_max.saturating_sub(started.elapsed());
        if left.is_zero() {
            talk.end(Ended::Time);
            break;
        }
        let (came, time) = post(server, &request, left).await;
        match talk.take(came, time.as_secs_f64()) {
            Next::Nothing => {}
            Next::Wait(pause) => tokio::time::sleep(pause.min(left)).await,
            // Nobody is shown what the calls of a last answer say.
            Next::Use(_) if is_call => break,
            Next::Use(wanted) => {
                for one in wanted {
                    let said = folder.carry_out(&one.what)?;
                    talk.give(&one, &said);
                }
            }
        }
    }
    Ok(went(talk, place.task))
}

fn went(talk: Talk, task: &Task) -> Went {
    let ended = match (talk.ended, &task.check) {
        // It was asked for one answer.
        (None | Some(Ended::Steps), Check::Call(_)) => Ended::Done,
        (ended, _) => ended.unwrap_or(Ended::Done),
    };
    let answer = talk.answer.unwrap_or_default();
    let said = match talk.error.filter(|_| ended.voids()) {
        Some(error) => error,
        None => crate::bench::quality::said(&answer),
    };
    Went {
        ended,
        fault: talk.fault,
        turn_seconds: talk.turn_seconds,
        calls: talk.calls,
        n_prompt: talk.n_prompt,
        n_answer: talk.n_answer,
        n_retries: talk.n_retries,
        answer,
        said,
    }
}
