use axum::http::Method;
use store::{CLOCK_SET_S, Figure, HistoryAsk, HistoryPage};
use tempfile::TempDir;

use super::*;
use crate::tests::scripted::{Scripted, config, hello, request, send};
use crate::{GatewayConfig, Routing, app};

/// A machine that is always as warm.
#[derive(Debug)]
pub(crate) struct Warm;

impl Pulse for Warm {
    fn look(&self, ask: VitalsAsk<'_>) -> Vitals {
        assert!(ask.pids.contains(&std::process::id()));
        Vitals {
            celsius: Some(40.0),
            ..Vitals::default()
        }
    }
}

const START_S: u64 = CLOCK_SET_S / 900 * 900 + 900;

struct Kept {
    _folder: TempDir,
    state: AppState,
    keeping: Keeping,
    elapsed_s: u64,
    /// What the clock shows beyond the time that has passed.
    ahead_s: u64,
}

impl Kept {
    fn new(backend: &Arc<Scripted>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keeper = HistoryKeeper::new(History::new(folder.path(), 90), Arc::new(Warm));
        let config = GatewayConfig {
            history: Some(keeper.clone()),
            ..config()
        };
        Self {
            _folder: folder,
            state: AppState::routed(Arc::clone(backend) as _, config, Routing::default()),
            keeping: Keeping::new(keeper),
            elapsed_s: 0,
            ahead_s: START_S,
        }
    }

    /// Looks once a second for so many seconds.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let now = Now {
                now_ms: (self.ahead_s + self.elapsed_s) * 1000,
                elapsed: Duration::from_secs(self.elapsed_s),
            };
            self.keeping.look(&self.state, now).await;
            self.elapsed_s += 1;
        }
    }

    fn page(&self, from_s: u64, to_s: u64) -> HistoryPage {
        let ask = HistoryAsk {
            from_s,
            to_s,
            points: 1000,
        };
        self.keeping.keeper.history.read(&ask, to_s)
    }

    fn kinds(&self) -> Vec<&'static str> {
        let page = self.page(0, START_S * 2);
        page.marks.iter().map(|mark| mark.kind.word()).collect()
    }
}

#[tokio::test]
async fn ten_seconds_become_a_sample_with_what_requests_left() {
    let backend = Scripted::new(vec![hello(), hello()]);
    let mut kept = Kept::new(&backend);
    let router = app(kept.state.clone());
    kept.pass(3).await;
    let chat = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;
    for _ in 0..2 {
        let reply = send(
            router.clone(),
            request(Method::POST, "/v1/chat/completions", chat),
        );
        assert_eq!(reply.await.status, 200);
    }
    kept.pass(8).await;
    let page = kept.page(START_S, START_S + 60);
    assert_eq!(page.points.len(), 1);
    let sample = &page.points[0];
    assert_eq!((sample.at_s, sample.waits.count()), (START_S, 2));
    let mean = |figure| sample.get(figure).map(|spread| spread.mean);
    assert_eq!(mean(Figure::AnsweredPerMin), Some(12.0));
    // 8 tokens of each prompt in 40 ms, 5 of each answer in 80.
    assert_eq!(mean(Figure::PrefillSpeed), Some(200.0));
    assert_eq!(mean(Figure::DecodeSpeed), Some(62.5));
    assert_eq!(mean(Figure::Celsius), Some(40.0));
    assert_eq!(mean(Figure::GpuUsed), None);
    kept.pass(10).await;
    let page = kept.page(START_S, START_S + 60);
    let next = &page.points[1];
    assert_eq!((next.at_s, next.waits.count()), (START_S + 10, 0));
    assert_eq!(next.get(Figure::DecodeSpeed), None);
    assert_eq!(kept.kinds(), ["load"]);
}

#[tokio::test]
async fn a_clock_that_nobody_has_set_records_nothing_and_a_jump_begins_anew() {
    let mut kept = Kept::new(&Scripted::idle());
    kept.ahead_s = 1000;
    kept.pass(35).await;
    assert_eq!(kept.page(0, START_S).points, []);
    kept.ahead_s = START_S;
    kept.pass(25).await;
    assert_eq!(kept.kinds(), ["load", "clock"]);
    let points = kept.page(START_S, START_S + 100).points;
    let first = points[0].at_s;
    // What was gathered before the jump is in no sample: the first is of the time after it.
    assert!(first >= START_S + 30, "{first}");
    // Back by a minute: what was there is replaced and not added to.
    let n_before = points.len();
    kept.ahead_s -= 60;
    kept.pass(30).await;
    assert_eq!(kept.kinds(), ["load", "clock", "clock"].map(str::to_owned));
    let points = kept.page(START_S - 60, START_S + 100).points;
    assert!(points.len() > n_before);
}

#[tokio::test]
async fn samples_are_written_together_and_the_end_writes_the_rest() {
    let mut kept = Kept::new(&Scripted::idle());
    let path = kept._folder.path().join(store::HISTORY_FILE_NAME);
    kept.pass(45).await;
    assert!(!path.exists(), "four samples wait");
    kept.pass(140).await;
    assert!(path.exists());
    kept.pass(15).await;
    kept.state.end_history().await;
    let again = History::new(kept._folder.path(), 90);
    let ask = HistoryAsk {
        from_s: START_S,
        to_s: START_S + 300,
        points: 1000,
    };
    assert_eq!(again.read(&ask, START_S + 300).points.len(), 19);
}
