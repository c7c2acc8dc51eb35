//! `GET /api/events` from the client's side: the state of a running server, all of it once and
//! then what changes, over broken connections.
//!
//! [`follow`] reads the stream in a task of its own and tells what it hears through a channel;
//! [`Board`] is what is known from that. Nothing is asked twice: after a break the stream goes on
//! from the last event, or begins anew with all there is.

mod board;
mod sse;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

pub(crate) use self::board::Board;
#[cfg(test)]
pub(crate) use self::wire::fields_of;
pub(crate) use self::wire::{BusEvent, Device, Facts, MemoryState, ModelState, Slot, Worker};

use self::sse::SseParser;
use crate::http::{Server, root_cause};
use crate::outcome::{Code, Fault, Outcome, fault};

const PATH: &str = "/api/events";
/// Silence after which the connection is taken for dead; the server says a word every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(40);
/// Pauses between attempts; the last one holds for all that come.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];
/// What is told and not yet taken; whoever is slower holds the stream up.
const TOLD_MAX: usize = 64;
/// How long a server may take to say how everything is.
const FIRST_MAX: Duration = Duration::from_secs(15);

/// What is heard of a server.
#[derive(Debug)]
pub(crate) enum Told {
    /// It is there and begins to tell.
    Open,
    Event(BusEvent),
    /// What comes is of another process than what came before, and counts anew.
    Restarted,
    /// It is not there, and is asked again.
    Lost(Fault),
    /// It refuses, and is not asked again.
    Refused(Fault),
}

/// Follows the server until nobody listens any more. Needs a runtime.
pub(crate) fn follow(server: Arc<Server>) -> Receiver<Told> {
    let (tell, told) = channel(TOLD_MAX);
    tokio::spawn(async move {
        // The listener is gone, which is the end.
        let _ = keep_telling(&server, &tell).await;
    });
    told
}

/// All that a server tells at first.
pub(crate) async fn snapshot(server: Arc<Server>) -> Outcome<BusEvent> {
    let at = server.base().to_owned();
    let mut told = follow(server);
    let first = async {
        loop {
            match told.recv().await {
                Some(Told::Event(event)) => return Ok(event),
                Some(Told::Open | Told::Restarted) => {}
                Some(Told::Lost(fault) | Told::Refused(fault)) => return Err(fault),
                None => return Err(fault(Code::Failure, "the stream of events has ended")),
            }
        }
    };
    timeout(FIRST_MAX, first).await.unwrap_or_else(|_| {
        let limit_s = FIRST_MAX.as_secs();
        let message = format!(
            "the server at {at} did not say in {limit_s} s how it is; `sextant doctor` looks for why"
        );
        Err(fault(Code::NoServer, message))
    })
}

/// Nobody listens.
struct Unheard;

async fn keep_telling(server: &Server, tell: &Sender<Told>) -> Result<(), Unheard> {
    let mut last_id = None;
    let mut n_failures = 0;
    loop {
        let told = match server.events(PATH, last_id.as_deref()).await {
            Ok(response) => {
                n_failures = 0;
                send(tell, Told::Open).await?;
                let chunks = response.bytes_stream();
                Told::Lost(read(chunks, &mut last_id, tell).await?)
            }
            Err(refusal) if refusal.is_final => Told::Refused(refusal.fault),
            Err(refusal) => Told::Lost(refusal.fault),
        };
        let is_over = matches!(told, Told::Refused(_));
        send(tell, told).await?;
        if is_over {
            return Ok(());
        }
        let last = PAUSES[PAUSES.len() - 1];
        sleep(PAUSES.get(n_failures).copied().unwrap_or(last)).await;
        n_failures += 1;
    }
}

async fn send(tell: &Sender<Told>, told: Told) -> Result<(), Unheard> {
    tell.send(told).await.map_err(|_| Unheard)
}

/// Tells what a connection brings, and gives why it ended.
async fn read<B: AsRef<[u8]>>(
    chunks: impl futures_util::Stream<Item = reqwest::Result<B>>,
    last_id: &mut Option<String>,
    tell: &Sender<Told>,
) -> Result<Fault, Unheard> {
    let mut chunks = std::pin::pin!(chunks);
    let mut parser = SseParser::default();
    loop {
        let chunk = match timeout(SILENCE_MAX, chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return Ok(gone(&root_cause(&error))),
            Ok(None) => return Ok(gone("it has ended the stream")),
            Err(_) => {
                let limit_s = SILENCE_MAX.as_secs();
                return Ok(gone(&format!("nothing was heard for {limit_s} s")));
            }
        };
        let events = match parser.feed(chunk.as_ref()) {
            Ok(events) => events,
            Err(error) => return Ok(gone(&error.to_string())),
        };
        for event in events {
            let parsed = match serde_json::from_str(&event.data) {
                Ok(parsed) => parsed,
                Err(error) => return Ok(gone(&format!("it sent no event: {error}"))),
            };
            let run_before = last_id.as_deref().map(run);
            if run_before.is_some_and(|before| before != run(&event.id)) {
                send(tell, Told::Restarted).await?;
            }
            send(tell, Told::Event(parsed)).await?;
            // An event that was not told must come again.
            if !event.id.is_empty() {
                *last_id = Some(event.id);
            }
        }
    }
}

/// The part of an id that tells one process of the server from another.
fn run(id: &str) -> &str {
    id.rsplit_once('.').map_or(id, |(run, _)| run)
}

fn gone(why: &str) -> Fault {
    crate::outcome::Fault::from(anyhow!("{why}"))
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn told_of(chunks: Vec<&'static str>) -> (Vec<String>, String, Option<String>) {
        let (tell, mut told) = channel(TOLD_MAX);
        let mut last_id = None;
        let chunks = stream::iter(chunks.into_iter().map(Ok));
        let Ok(fault) = read(chunks, &mut last_id, &tell).await else {
            panic!("somebody listens");
        };
        drop(tell);
        let mut heard = Vec::new();
        while let Some(one) = told.recv().await {
            heard.push(format!("{one:?}"));
        }
        (heard, fault.to_string(), last_id)
    }

    #[tokio::test]
    async fn the_last_id_is_that_of_the_last_event_that_was_told() {
        let (heard, why, last) = told_of(vec![
            "id: r.1\ndata: {\"type\":\"snapshot\",\"entries\":[]}\n\n: alive\n\n",
            "id: r.2\ndata: {\"type\":\"remove\",\"key\":\"a\"}\n\nid: r.3\ndata: {\"type\":\"rem",
        ])
        .await;
        assert_eq!(heard.len(), 2, "{heard:?}");
        assert!(why.contains("ended"), "{why}");
        assert_eq!(last.as_deref(), Some("r.2"));
    }

    #[tokio::test]
    async fn another_process_is_told_before_its_first_event() {
        let (heard, _, last) = told_of(vec![
            "id: r.1\ndata: {\"type\":\"remove\",\"key\":\"a\"}\n\n",
            "id: r.9\ndata: {\"type\":\"remove\",\"key\":\"b\"}\n\n",
            "id: s.1\ndata: {\"type\":\"remove\",\"key\":\"c\"}\n\n",
        ])
        .await;
        let kinds: Vec<_> = heard.iter().map(|one| one.starts_with("Event")).collect();
        assert_eq!(kinds, [true, true, false, true], "{heard:?}");
        assert_eq!(
            (heard[2].as_str(), last.as_deref()),
            ("Restarted", Some("s.1"))
        );
    }

    #[tokio::test]
    async fn what_is_no_event_ends_the_connection_and_not_the_program() {
        let (heard, why, last) = told_of(vec!["id: r.1\ndata: <html>\n\n"]).await;
        assert!(heard.is_empty() && last.is_none());
        assert!(why.contains("no event"), "{why}");
        // A kind of event that is newer than this program is passed over.
        let (heard, _, last) = told_of(vec!["id: r.1\ndata: {\"type\":\"later\"}\n\n"]).await;
        assert_eq!((heard.len(), last.as_deref()), (1, Some("r.1")));
    }
}
