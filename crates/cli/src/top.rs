//! `sextant top`: what a running server does, as it does it.
//!
//! The server's stream of events ([`crate::bus`]) brings how everything is and what changes;
//! [`state`] makes of it what is known, [`view`] the lines of a screen of any size, and both are
//! pure. [`live`] and [`screen`] are the terminal around them. Where standard output is none,
//! or a dumb one, it is told once as a text.

mod details;
mod keys;
mod live;
mod predicted;
mod screen;
mod state;
mod table;
mod text;
mod theme;
mod view;
mod width;

use std::sync::Arc;

use clap::ArgMatches;
use serde_json::Value;
use tokio::runtime::Runtime;

use self::state::{Action, Event, State};
use self::theme::Theme;
use crate::bus;
use crate::http::Server;
use crate::outcome::Outcome;
use crate::{configuration, output};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let server = Arc::new(Server::new(matches, &config)?);
    let runtime = Runtime::new()?;
    if output::wants_json(matches) {
        return runtime.block_on(print_json(server));
    }
    if live::has_screen() {
        let theme = Theme::of(|name| std::env::var(name).ok());
        let outcome = runtime.block_on(live::run(server, theme));
        // The thread that waits for keys ends with the program.
        runtime.shutdown_background();
        return outcome;
    }
    runtime.block_on(print_text(server))
}

async fn print_text(server: Arc<Server>) -> Outcome {
    let (mut state, plans) = once(&server).await?;
    for (model, question, answer) in plans {
        let plan = answer.and_then(predicted::read);
        let event = Event::Planned {
            model,
            question,
            plan,
        };
        state.step(event, live::now_ms());
    }
    output::piece(&text::of(&state))?;
    Ok(())
}

async fn print_json(server: Arc<Server>) -> Outcome {
    let (state, plans) = once(&server).await?;
    let plans = plans.into_iter();
    let plans: Vec<_> = plans
        .filter_map(|(model, _, answer)| Some((model, answer.ok()?)))
        .collect();
    output::json(&text::as_json(&state.address, &state.board, &plans))?;
    Ok(())
}

/// A model, what the planner was asked of it, and what it said.
type Planned = (String, Value, Result<Value, String>);

/// How everything is now.
async fn once(server: &Arc<Server>) -> Outcome<(State, Vec<Planned>)> {
    let snapshot = bus::snapshot(Arc::clone(server)).await?;
    let mut state = State::new(server.base(), (0, 0), live::now_ms());
    let mut plans = Vec::new();
    for action in state.step(Event::Bus(snapshot), live::now_ms()) {
        if let Action::Plan { model, question } = action {
            let answer = predicted::ask(server, &question).await;
            plans.push((model, question, answer));
        }
    }
    Ok((state, plans))
}

#[cfg(test)]
mod tests;
