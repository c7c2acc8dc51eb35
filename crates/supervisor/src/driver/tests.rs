//! The driver against scripted workers in the same process. Time is virtual
//! (`start_paused`), so waits cost nothing and order is certain.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use proto::frame;
use proto::{Delta, FromWorker, Timings, Usage};
use tokio::io::DuplexStream;

use super::*;
use crate::pressure::{Level, PoolReading};
use crate::{InProcessLauncher, MemoryCost, PressureSource};

/// A worker's view of its connection.
struct Peer {
    stream: DuplexStream,
    /// Which start this is, from 1.
    incarnation: u32,
}

impl Peer {
    async fn receive(&mut self) -> Option<ToWorker> {
        frame::read(&mut self.stream).await.unwrap()
    }

    async fn send(&mut self, message: FromWorker) {
        // A send after the endpoint has let go is as good as none.
        let _ = frame::write(&mut self.stream, &message).await;
    }

    async fn event(&mut self, id: JobId, event: Event) {
        self.send(FromWorker::Event { id, event }).await;
    }

    /// Hellos both ways and the load, up to `Loaded`.
    async fn come_up(&mut self) -> LoadSpec {
        let version = proto::VERSION;
        self.send(FromWorker::Hello { version, pid: 42 }).await;
        assert!(matches!(self.receive().await, Some(ToWorker::Hello { .. })));
        let Some(ToWorker::Load(spec)) = self.receive().await else {
            panic!("expected a load");
        };
        self.send(FromWorker::LoadProgress { fraction: 0.5 }).await;
        let facts = ModelFacts {
            name: spec.name.clone(),
            slots: 4,
            queue_max: 16,
            ..ModelFacts::default()
        };
        self.send(FromWorker::Loaded(Box::new(facts))).await;
        *spec
    }

    async fn next_job(&mut self) -> Option<JobId> {
        match self.receive().await? {
            ToWorker::Submit { id, .. } => Some(id),
            other => panic!("expected a job, got {other:?}"),
        }
    }
}

fn fleet<F, W>(script: F) -> Fleet
where
    F: Fn(Peer) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    Fleet::new(FleetConfig::default(), scripted(script))
}

fn scripted<F, W>(script: F) -> Arc<dyn Launcher>
where
    F: Fn(Peer) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let n_starts = AtomicU32::new(0);
    Arc::new(InProcessLauncher::new(move |stream, _log| {
        script(Peer {
            stream,
            incarnation: n_starts.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }))
}

fn spec(name: &str) -> LoadSpec {
    LoadSpec {
        name: name.into(),
        ..LoadSpec::default()
    }
}

fn job() -> Job {
    Job::Detokenize { tokens: vec![] }
}

fn text(text: impl Into<String>) -> Event {
    Event::Delta {
        choice: 0,
        delta: Delta::Text { text: text.into() },
        logprobs: vec![],
    }
}

fn done() -> Event {
    Event::Done {
        usage: Usage::default(),
        timings: Timings::default(),
    }
}

async fn all(mut stream: JobStream) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    events
}

/// Serves every job with one text until it is told to drain.
async fn serve(mut peer: Peer) {
    peer.come_up().await;
    while let Some(message) = peer.receive().await {
        match message {
            ToWorker::Submit { id, .. } => {
                peer.event(id, text("hi")).await;
                peer.event(id, done()).await;
            }
            ToWorker::Inspect { ticket } => {
                let state = WorkerState {
                    jobs_total: 5,
                    ..WorkerState::default()
                };
                peer.send(FromWorker::State { ticket, state }).await;
            }
            ToWorker::Drain => return peer.send(FromWorker::Drained).await,
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_is_loaded_used_and_unloaded() {
    let fleet = fleet(serve);
    let mut progress = fleet.subscribe();
    let facts = fleet.load(spec("m")).await.unwrap();
    assert_eq!(facts.name, "m");
    assert!(matches!(
        &progress.borrow_and_update()[0].phase,
        ModelPhase::Ready(_)
    ));
    let status = &fleet.models()[0];
    assert_eq!((status.name.as_str(), status.pid), ("m", Some(42)));
    let stream = fleet.submit("m", job()).await.unwrap();
    assert_eq!(all(stream).await, [text("hi"), done()]);
    assert_eq!(fleet.inspect("m").await.map(|s| s.jobs_total), Some(5));
    assert_eq!(fleet.inspect("other").await, None);
    assert!(fleet.unload("m").await);
    assert!(!fleet.unload("m").await);
    assert!(fleet.models().is_empty());
    let failure = fleet.submit("m", job()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ModelUnavailable);
}

#[tokio::test(start_paused = true)]
async fn answers_are_observed_with_their_company() {
    let seen: Arc<Mutex<Vec<(String, Company)>>> = Arc::default();
    let observe = {
        let seen = Arc::clone(&seen);
        move |answer: &Seen<'_>| {
            let name = answer.spec.name.clone();
            seen.lock().unwrap().push((name, answer.company));
        }
    };
    let config = FleetConfig {
        observe: Some(Observe(Arc::new(observe))),
        ..FleetConfig::default()
    };
    // The first job has an answer at once, the next two when both are there.
    let script = |mut peer: Peer| async move {
        peer.come_up().await;
        let first = peer.next_job().await.unwrap();
        peer.event(first, done()).await;
        let two = [
            peer.next_job().await.unwrap(),
            peer.next_job().await.unwrap(),
        ];
        for id in two {
            peer.event(id, done()).await;
        }
        std::future::pending().await
    };
    let fleet = Fleet::new(config, scripted(script));
    fleet.load(spec("m")).await.unwrap();
    let alone = fleet.submit("m", job()).await.unwrap();
    assert_eq!(all(alone).await, [done()]);
    let one = fleet.submit("m", job()).await.unwrap();
    let other = fleet.submit("m", job()).await.unwrap();
    assert_eq!(
        (all(one).await, all(other).await),
        (vec![done()], vec![done()])
    );
    let company = [Company::Alone, Company::Others, Company::Others];
    assert_eq!(
        *seen.lock().unwrap(),
        company.map(|one| ("m".to_owned(), one))
    );
}

#[tokio::test(start_paused = true)]
async fn a_placement_goes_to_the_worker_of_a_ready_model() {
    let (told, mut placements) = mpsc::unbounded_channel();
    let fleet = fleet(move |mut peer: Peer| {
        let told = told.clone();
        async move {
            peer.come_up().await;
            while let Some(message) = peer.receive().await {
                if let ToWorker::Place(placement) = message {
                    told.send(placement).unwrap();
                }
            }
        }
    });
    let placement = Placement {
        threads: 1,
        threads_batch: 2,
        cpus: "0".into(),
        cpus_batch: String::new(),
    };
    // Nobody is there to hear it yet.
    fleet.place("m", Placement::default());
    fleet.load(spec("m")).await.unwrap();
    fleet.place("m", placement.clone());
    assert_eq!(placements.recv().await, Some(placement));
}

#[tokio::test(start_paused = true)]
async fn progress_is_seen_by_subscribers() {
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let fleet = fleet(move |mut peer| {
        let gate = Arc::clone(&gate);
        async move {
            let version = proto::VERSION;
            peer.send(FromWorker::Hello { version, pid: 1 }).await;
            peer.send(FromWorker::LoadProgress { fraction: 0.25 }).await;
            gate.notified().await;
            peer.send(FromWorker::Loaded(Box::default())).await;
            peer.receive().await;
            std::future::pending().await
        }
    });
    let mut statuses = fleet.subscribe();
    let loading = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.load(spec("m")).await }
    });
    let quarter = ModelPhase::Loading { fraction: 0.25 };
    statuses
        .wait_for(|statuses| statuses.first().is_some_and(|m| m.phase == quarter))
        .await
        .unwrap();
    go_on.notify_one();
    loading.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_cancels_its_job() {
    let (cancelled, mut seen) = mpsc::unbounded_channel();
    let fleet = fleet(move |mut peer| {
        let cancelled = cancelled.clone();
        async move {
            peer.come_up().await;
            let id = peer.next_job().await.unwrap();
            peer.event(id, text("a")).await;
            let message = peer.receive().await;
            cancelled.send((id, message)).unwrap();
            std::future::pending().await
        }
    });
    fleet.load(spec("m")).await.unwrap();
    let mut stream = fleet.submit("m", job()).await.unwrap();
    let id = stream.id();
    assert_eq!(stream.next().await, Some(text("a")));
    drop(stream);
    let want = Some(ToWorker::Cancel { id });
    assert_eq!(seen.recv().await, Some((id, want)));
}

#[tokio::test(start_paused = true)]
async fn a_crash_amid_eight_streams_fails_each_once_and_the_next_job_works() {
    let fleet = fleet(|mut peer| async move {
        if peer.incarnation > 1 {
            return serve(peer).await;
        }
        peer.come_up().await;
        for _ in 0..8 {
            let id = peer.next_job().await.unwrap();
            peer.event(id, text("half an ans")).await;
        }
        panic!("as if by an abort");
    });
    fleet.load(spec("m")).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(fleet.submit("m", job()).await.unwrap());
    }
    for stream in streams {
        let events = all(stream).await;
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[0], text("half an ans"));
        let Event::Failed(JobFailure {
            kind: FailureKind::WorkerLost { cause },
            ..
        }) = &events[1]
        else {
            panic!("{events:?}");
        };
        assert_eq!(cause, "the worker panicked");
    }
    let stream = fleet.submit("m", job()).await.unwrap();
    assert_eq!(all(stream).await, [text("hi"), done()]);
    let status = &fleet.models()[0];
    assert_eq!(status.restarts, 1);
    assert_eq!(status.last_crash.as_deref(), Some("the worker panicked"));
}

#[tokio::test(start_paused = true)]
async fn a_queued_job_is_answered_by_the_next_worker() {
    let fleet = fleet(|mut peer| async move {
        if peer.incarnation > 1 {
            return serve(peer).await;
        }
        peer.come_up().await;
        let begun = peer.next_job().await.unwrap();
        peer.next_job().await;
        peer.event(begun, text("half an ans")).await;
        panic!("as if by an abort");
    });
    fleet.load(spec("m")).await.unwrap();
    let begun = fleet.submit("m", job()).await.unwrap();
    let queued = fleet.submit("m", job()).await.unwrap();
    let events = all(begun).await;
    assert!(
        matches!(
            &events[1],
            Event::Failed(JobFailure {
                kind: FailureKind::WorkerLost { .. },
                ..
            })
        ),
        "{events:?}"
    );
    assert_eq!(all(queued).await, [text("hi"), done()]);
}

#[tokio::test(start_paused = true)]
async fn a_job_dropped_while_it_waits_never_reaches_the_worker() {
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let fleet = fleet(move |peer| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            serve(peer).await;
        }
    });
    let loading = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.load(spec("m")).await }
    });
    tokio::task::yield_now().await;
    let waiting = fleet.submit("m", job());
    let timeout = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(timeout.is_err());
    assert!(fleet.inner.lock().jobs.is_empty());
    go_on.notify_one();
    loading.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_running_jobs_finish() {
    let fleet = fleet(|mut peer| async move {
        peer.come_up().await;
        let id = peer.next_job().await.unwrap();
        assert_eq!(peer.receive().await, Some(ToWorker::Drain));
        peer.event(id, text("to the end")).await;
        peer.event(id, done()).await;
        peer.send(FromWorker::Drained).await;
    });
    fleet.load(spec("m")).await.unwrap();
    let stream = fleet.submit("m", job()).await.unwrap();
    fleet.shutdown().await;
    assert_eq!(all(stream).await, [text("to the end"), done()]);
    let failure = fleet.load(spec("m")).await.unwrap_err();
    assert_eq!(failure.message, "the endpoint is shutting down");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_drain_is_killed() {
    let fleet = fleet(|mut peer| async move {
        peer.come_up().await;
        std::future::pending().await
    });
    fleet.load(spec("m")).await.unwrap();
    let stream = fleet.submit("m", job()).await.unwrap();
    let before = Instant::now();
    assert!(fleet.unload("m").await);
    assert!(before.elapsed() >= FleetConfig::default().drain_timeout);
    assert!(matches!(
        all(stream).await.as_slice(),
        [Event::Failed(JobFailure {
            kind: FailureKind::Draining,
            ..
        })]
    ));
}

#[tokio::test(start_paused = true)]
async fn another_version_silence_and_nonsense_are_refused() {
    let version = fleet(|mut peer| async move {
        let hello = FromWorker::Hello {
            version: 99,
            pid: 1,
        };
        peer.send(hello).await;
        std::future::pending().await
    });
    let failure = version.load(spec("m")).await.unwrap_err();
    assert!(failure.message.contains("version 99"), "{failure:?}");

    let silence = fleet(|peer| async move {
        std::future::pending::<()>().await;
        drop(peer);
    });
    let failure = silence.load(spec("m")).await.unwrap_err();
    assert!(failure.message.contains("did not say hello"), "{failure:?}");

    let hung = fleet(|mut peer| async move {
        peer.receive().await;
        drop(peer);
        std::future::pending().await
    });
    let failure = hung.load(spec("m")).await.unwrap_err();
    assert_eq!(
        failure.message,
        "while loading, the worker closed its connection and lived on; then it was killed by \
         the endpoint"
    );

    let nonsense = fleet(|mut peer| async move {
        let _ = frame::write(&mut peer.stream, &"what?").await;
        std::future::pending().await
    });
    let failure = nonsense.load(spec("m")).await.unwrap_err();
    assert!(
        failure.message.contains("sent what cannot be read"),
        "{failure:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_loses_its_job_and_no_other() {
    let backlog = BacklogLimits {
        events_max: 10,
        bytes_max: 1 << 20,
    };
    let launcher = scripted(|mut peer| async move {
        peer.come_up().await;
        let slow = peer.next_job().await.unwrap();
        let quick = peer.next_job().await.unwrap();
        for _ in 0..100 {
            peer.event(slow, text("x")).await;
        }
        peer.event(quick, done()).await;
        std::future::pending().await
    });
    let config = FleetConfig::default();
    let (limits, shelf) = (Limits::new(&config), shelf::Limits::new(&config));
    let fleet = Fleet::with_limits((limits, shelf), backlog, (None, None), launcher);
    fleet.load(spec("m")).await.unwrap();
    let slow = fleet.submit("m", job()).await.unwrap();
    let quick = fleet.submit("m", job()).await.unwrap();
    assert_eq!(all(quick).await, [done()]);
    let events = all(slow).await;
    assert_eq!(events.len(), 12);
    let Event::Failed(failure) = &events[11] else {
        panic!("{events:?}");
    };
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert_eq!(
        failure.message,
        "the caller left more than 10 events unread"
    );
}

#[test]
fn the_backlog_counts_bytes_and_lets_one_large_event_through() {
    let limits = BacklogLimits {
        events_max: 10,
        bytes_max: 100,
    };
    let backlog = Backlog::default();
    assert_eq!(backlog.add(500, limits), None);
    assert!(backlog.add(1, limits).is_some());
    backlog.remove(500);
    assert_eq!(backlog.add(99, limits), None);
}

#[tokio::test(start_paused = true)]
async fn a_job_too_large_for_a_frame_fails_alone() {
    let fleet = fleet(serve);
    fleet.load(spec("m")).await.unwrap();
    let huge = Job::Tokenize {
        text: "x".repeat(frame::FRAME_BYTES_MAX as usize),
        add_special: false,
        parse_special: false,
        with_pieces: false,
    };
    let events = all(fleet.submit("m", huge).await.unwrap()).await;
    let [Event::Failed(failure)] = events.as_slice() else {
        panic!("{} events", events.len());
    };
    assert_eq!(failure.kind, FailureKind::InvalidRequest);
    let stream = fleet.submit("m", job()).await.unwrap();
    assert_eq!(all(stream).await, [text("hi"), done()]);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_fleet_ends_its_workers() {
    let (alive, mut ended) = mpsc::channel::<()>(1);
    let fleet = fleet(move |peer| {
        let alive = alive.clone();
        async move {
            serve(peer).await;
            drop(alive);
        }
    });
    fleet.load(spec("m")).await.unwrap();
    drop(fleet);
    assert_eq!(ended.recv().await, None);
}
#[tokio::test(start_paused = true)]
async fn a_load_that_fails_says_why() {
    let want = LoadFailure {
        kind: LoadFailureKind::Artifact,
        message: "not a GGUF".into(),
    };
    let failure = want.clone();
    let fleet = fleet(move |mut peer| {
        let failure = failure.clone();
        async move {
            let version = proto::VERSION;
            peer.send(FromWorker::Hello { version, pid: 1 }).await;
            peer.send(FromWorker::LoadFailed(failure)).await;
        }
    });
    assert_eq!(fleet.load(spec("m")).await, Err(want.clone()));
    assert_eq!(fleet.models()[0].phase, ModelPhase::Failed(want));
}

/// Two models of which only one fits, on demand.
fn small_fleet<F, W>(script: F) -> Fleet
where
    F: Fn(Peer) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let config = FleetConfig {
        memory_max: Some(10),
        ..FleetConfig::default()
    };
    let fleet = Fleet::new(config, scripted(script));
    let listings = ["a", "b"].map(|name| Listing {
        spec: spec(name),
        cost: MemoryCost {
            weights_bytes: 6,
            ..MemoryCost::default()
        },
        traits: crate::ModelTraits::default(),
        pin: false,
        keep_alive: None,
        helps: None,
        fault: None,
    });
    fleet.shelve(listings.into());
    fleet
}

fn phases(fleet: &Fleet) -> Vec<(String, &'static str)> {
    let models = fleet.models().into_iter();
    models
        .map(|model| (model.name, model.phase.word()))
        .collect()
}

fn states(of: [(&str, &'static str); 2]) -> Vec<(String, &'static str)> {
    of.map(|(name, word)| (name.to_owned(), word)).into()
}

#[tokio::test(start_paused = true)]
async fn models_are_loaded_and_swapped_on_demand() {
    let fleet = small_fleet(serve);
    assert_eq!(
        phases(&fleet),
        states([("a", "unloaded"), ("b", "unloaded")])
    );
    for name in ["a", "b", "a"] {
        let stream = fleet.submit(name, job()).await.unwrap();
        assert_eq!(all(stream).await, [text("hi"), done()]);
    }
    assert_eq!(phases(&fleet), states([("a", "ready"), ("b", "unloaded")]));
    assert_eq!(fleet.memory(), (6, Some(10)));
    let waits = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.load(spec("b")).await }
    });
    waits.await.unwrap().unwrap();
    assert_eq!(phases(&fleet), states([("a", "unloaded"), ("b", "ready")]));
    // Unloading by name leaves it on the shelf.
    assert!(fleet.unload("b").await);
    assert_eq!(
        phases(&fleet),
        states([("a", "unloaded"), ("b", "unloaded")])
    );
    fleet.shutdown().await;
    let failure = fleet.submit("a", job()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_is_not_swapped_and_what_does_not_fit_is_an_error() {
    let fleet = small_fleet(serve);
    let order = LoadOrder {
        spec: spec("a"),
        pin: Some(true),
        force: false,
    };
    fleet.load_by(order).await.unwrap();
    let failure = fleet.submit("b", job()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::ModelUnavailable);
    assert!(
        failure.message.contains("kept by `a` (pinned, 6 B)"),
        "{failure:?}"
    );
    let failure = fleet.load(spec("b")).await.unwrap_err();
    assert_eq!(failure.kind, LoadFailureKind::Resources);
    fleet.pin("a", false);
    fleet.load(spec("b")).await.unwrap();
    assert_eq!(phases(&fleet), states([("a", "unloaded"), ("b", "ready")]));
}

#[tokio::test(start_paused = true)]
async fn a_model_goes_after_the_answer_that_was_its_last() {
    let fleet = small_fleet(serve);
    let mut statuses = fleet.subscribe();
    let stream = fleet.submit("a", job()).await.unwrap();
    assert_eq!(all(stream).await, [text("hi"), done()]);
    fleet.keep("a", Keep::For(Duration::ZERO));
    statuses
        .wait_for(|statuses| statuses[0].phase == ModelPhase::Unloaded)
        .await
        .unwrap();
    let began = Instant::now();
    let stream = fleet.submit("a", job()).await.unwrap();
    assert_eq!(all(stream).await, [text("hi"), done()]);
    fleet.keep("a", Keep::For(Duration::from_secs(60)));
    statuses
        .wait_for(|statuses| matches!(statuses[0].phase, ModelPhase::Ready(_)))
        .await
        .unwrap();
    statuses
        .wait_for(|statuses| statuses[0].phase == ModelPhase::Unloaded)
        .await
        .unwrap();
    let took = began.elapsed();
    assert!((60..62).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_room_can_be_cancelled() {
    let fleet = small_fleet(|mut peer| async move {
        peer.come_up().await;
        std::future::pending().await
    });
    let busy = fleet.submit("a", job()).await.unwrap();
    let waits = |fleet: &Fleet| fleet.models()[1].place.waiting;
    {
        let mut waiting = Box::pin(fleet.submit("b", job()));
        assert!(poll_once(&mut waiting).await.is_none());
        assert_eq!(waits(&fleet), 1);
    }
    assert_eq!(waits(&fleet), 0);
    drop(busy);
}

#[tokio::test(start_paused = true)]
async fn short_memory_takes_caches_first_and_then_an_idle_model() {
    let left = Arc::new(AtomicU64::new(500));
    let source = {
        let left = Arc::clone(&left);
        move || {
            let pool = PoolReading {
                left_bytes: left.load(Ordering::Relaxed),
                limit_bytes: 1000,
                margin_bytes: 100,
                stalled_us: None,
                kills: 0,
            };
            vec![pool]
        }
    };
    let (told, mut given_back) = mpsc::unbounded_channel();
    let script = move |mut peer: Peer| {
        let told = told.clone();
        async move {
            let name = peer.come_up().await.name;
            while let Some(message) = peer.receive().await {
                match message {
                    ToWorker::GiveBack => told.send(name.clone()).unwrap(),
                    ToWorker::Drain => return peer.send(FromWorker::Drained).await,
                    _ => {}
                }
            }
        }
    };
    let config = FleetConfig {
        memory_max: Some(900),
        estimate: Some(Estimate(Arc::new(|spec| {
            let cost = MemoryCost {
                weights_bytes: 100,
                ..MemoryCost::default()
            };
            (spec, cost)
        }))),
        pressure: Some(PressureSource(Arc::new(source))),
        ..FleetConfig::default()
    };
    let fleet = Fleet::new(config, scripted(script));
    for name in ["busy", "idle"] {
        fleet.load(spec(name)).await.unwrap();
    }
    let _running = fleet.submit("busy", job()).await.unwrap();
    left.store(40, Ordering::Relaxed);
    assert_eq!(given_back.recv().await.as_deref(), Some("idle"));
    assert_eq!(fleet.pressure().level, Level::Short);
    let mut statuses = fleet.subscribe();
    statuses
        .wait_for(|statuses| statuses[1].phase == ModelPhase::Unloaded)
        .await
        .unwrap();
    let state = fleet.pressure();
    assert_eq!(
        (state.level, state.shrinks, state.unloads),
        (Level::Critical, 1, 1)
    );
    assert!(fleet.models()[1].place.was_shed);
    assert!(matches!(fleet.models()[0].phase, ModelPhase::Ready(_)));
    left.store(800, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(fleet.pressure().level, Level::Calm);
    assert_eq!(fleet.memory().1, Some(800));
}

/// Polls once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
