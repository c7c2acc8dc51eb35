//! The view that stays: keys, signals, the stream of the server and the time, each brought to
//! [`State`], whose screen is drawn after each.

use std::io::stdout;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatui::crossterm::event::read;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{MissedTickBehavior, interval};

use super::keys;
use super::predicted;
use super::screen::Screen;
use super::state::{Action, Event, State};
use super::theme::Theme;
use super::view;
use crate::bus::{self, Told};
use crate::http::Server;
use crate::outcome::{Code, Outcome, fault};

const TICK: Duration = Duration::from_secs(1);
/// Keys and answers that wait to be looked at.
const EVENTS_MAX: usize = 64;

pub(super) async fn run(server: Arc<Server>, theme: Theme) -> Outcome {
    let mut told = bus::follow(Arc::clone(&server));
    // A server that is not there, or lets nobody in, is told as by every other command.
    match told.recv().await {
        Some(Told::Lost(fault) | Told::Refused(fault)) => return Err(fault),
        Some(Told::Open | Told::Restarted | Told::Event(_)) => {}
        None => return Err(ended()),
    }
    let mut ends = Ends::new()?;
    let mut screen = Screen::take()?;
    let mut state = State::new(server.base(), screen.size()?, now_ms());
    let (tell, mut others) = channel(EVENTS_MAX);
    read_keys(&tell);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            told = told.recv() => match told {
                Some(Told::Open) => Event::Open,
                Some(Told::Event(event)) => Event::Bus(event),
                // All that there is comes next.
                Some(Told::Restarted) => continue,
                Some(Told::Lost(fault)) => Event::Lost(fault.to_string()),
                // The key was taken out of use, or the server is another one.
                Some(Told::Refused(fault)) => return Err(fault),
                None => return Err(ended()),
            },
            event = next(&mut others) => event?,
            _ = ticks.tick() => Event::Tick,
            () = ends.next() => return Err(fault(Code::Interrupted, "interrupted")),
        };
        for action in state.step(event, now_ms()) {
            match action {
                Action::Quit => return Ok(()),
                Action::Plan { model, question } => {
                    let (server, tell) = (Arc::clone(&server), tell.clone());
                    tokio::spawn(async move {
                        let answer = predicted::ask(&server, &question).await;
                        let plan = answer.and_then(predicted::read);
                        let event = Event::Planned {
                            model,
                            question,
                            plan,
                        };
                        // Who has left wants no answer.
                        let _ = tell.send(Ok(event)).await;
                    });
                }
            }
        }
        screen.show(view::screen(&state, theme))?;
    }
}

fn ended() -> crate::outcome::Fault {
    fault(Code::Failure, "the stream of events has ended")
}

async fn next(others: &mut Receiver<std::io::Result<Event>>) -> Outcome<Event> {
    match others.recv().await {
        Some(event) => Ok(event?),
        None => Err(ended()),
    }
}

/// Reads the terminal in a thread of its own: it waits without an end, and ends with us.
fn read_keys(tell: &Sender<std::io::Result<Event>>) {
    let tell = tell.clone();
    std::thread::spawn(move || {
        loop {
            let input = read();
            let is_over = input.is_err();
            let event = match input {
                Ok(input) => keys::event(&input).map(Ok),
                Err(error) => Some(Err(error)),
            };
            let is_heard = event.is_none_or(|event| tell.blocking_send(event).is_ok());
            if is_over || !is_heard {
                return;
            }
        }
    });
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// Whether there is a screen to draw on.
pub(super) fn has_screen() -> bool {
    use std::io::IsTerminal;
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stdout().is_terminal() && !is_dumb
}

/// The signals that end a program.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> Outcome<Self> {
        let each = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, terminate, hangup] = each.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
