//! Real processes: a script that plays llama-server, well or badly.

use std::path::Path;

use proto::{ChatJob, Event as Answer, FailureKind, Job, Message, Role};
use router::Reach;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use stdx::Priority;
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;
use crate::{Streams, Timeouts};

/// Nothing here should take long; only a fault makes a test wait for it.
const LONG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn config(flags: &[&str]) -> ManagedConfig {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/managed/fake.py");
    let words = ["python3", script, "--model", "/models/tiny.gguf"];
    let words = words.iter().chain(flags);
    ManagedConfig {
        remote: RemoteConfig {
            name: "big".into(),
            kind: Kind::LlamaServer,
            url: String::new(),
            key: None,
            headers: Vec::new(),
            reach: None,
            timeouts: Timeouts {
                connect: LONG,
                first_token: LONG,
                silence: LONG,
            },
            models: Vec::new(),
            vision: Vec::new(),
            streams: Streams::Always,
        },
        command: words.map(|word| Secret::new(*word)).collect(),
        env: BTreeMap::new(),
        tether: Vec::new(),
        start: Start::OnDemand,
        idle_timeout: None,
        start_timeout: LONG,
        grace: LONG,
    }
}

fn order() -> Order {
    let message = Message {
        role: Role::User,
        content: Some("Hello".into()),
        ..Message::default()
    };
    let job = ChatJob {
        messages: vec![message],
        ..ChatJob::default()
    };
    Order {
        trace_parent: None,
        model: "tiny".into(),
        job: Job::Chat(Box::new(job)),
        reach_max: Reach::Device,
        hops: 0,
        priority: Priority::Normal,
        is_whole: false,
    }
}

/// The text of an answer, or why there is none.
async fn answer(engine: &Managed) -> Result<String, JobFailure> {
    let mut events = engine.submit(order()).await?;
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event {
            Answer::Delta { delta, .. } => text.push_str(&format!("{delta:?}")),
            Answer::Failed(failure) => return Err(failure),
            _ => {}
        }
    }
    Ok(text)
}

/// Waits for what the engine says of itself.
async fn until(engine: &Managed, what: impl Fn(&ProcessStatus) -> bool) -> ProcessStatus {
    let waiting = async {
        loop {
            let status = engine.process().unwrap();
            if what(&status) {
                return status;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = timeout(LONG, waiting).await;
    waited.unwrap_or_else(|_| panic!("it stays at {:?}", engine.process()))
}

fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

fn lives(raw: u32) -> bool {
    // One that nobody has waited for yet is dead too.
    let stat = std::fs::read_to_string(format!("/proc/{raw}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default();
    test_kill_process(pid(raw)).is_ok() && !state.trim_start().starts_with('Z')
}

async fn until_dead(raw: u32) {
    let waiting = async {
        while lives(raw) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.expect("it lives on");
}

#[tokio::test]
async fn it_starts_for_the_first_request_and_is_known_before() {
    let engine = Managed::new(config(&[])).unwrap();
    let before = engine.survey().await.unwrap();
    let names: Vec<_> = before
        .models
        .iter()
        .map(|one| (&*one.name, one.is_loaded))
        .collect();
    assert_eq!(names, [("tiny", false)]);
    assert_eq!(engine.process().unwrap().phase, "stopped");
    assert_eq!(engine.reach(), Reach::Device);

    let (one, two) = tokio::join!(answer(&engine), answer(&engine));
    assert_eq!(one.unwrap(), two.unwrap(), "one process answers both");
    timeout(LONG, engine.changed())
        .await
        .expect("it says that it is up");
    let status = engine.process().unwrap();
    assert_eq!((status.phase, status.restarts), ("up", 0));
    assert!(
        status.command.ends_with("--alias tiny"),
        "{}",
        status.command
    );
    let after = engine.survey().await.unwrap();
    assert_eq!(
        (after.models[0].is_loaded, after.models[0].context),
        (true, Some(512))
    );

    let process = status.pid.unwrap();
    engine.close().await;
    assert!(!lives(process));
    let gone = answer(&engine).await.unwrap_err();
    assert!(
        gone.message.contains("stopped for good"),
        "{}",
        gone.message
    );
}

#[tokio::test]
async fn requests_wait_while_it_loads_and_no_longer_than_they_like() {
    let folder = TempDir::new().unwrap();
    let gate = folder.path().join("open");
    let engine = Managed::new(config(&["--gate", gate.to_str().unwrap()])).unwrap();
    let waits = timeout(Duration::from_millis(300), answer(&engine)).await;
    assert!(waits.is_err(), "it cannot answer yet");
    assert_eq!(engine.process().unwrap().phase, "starting");
    assert_eq!(engine.survey().await.unwrap().models[0].name, "tiny");
    let (text, ()) = tokio::join!(answer(&engine), async {
        std::fs::write(&gate, "").unwrap();
    });
    text.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn a_killed_one_is_started_again_and_answers() {
    let mut config = config(&[]);
    config.start = Start::Always;
    let engine = Managed::new(config).unwrap();
    engine.survey().await.unwrap();
    let first = until(&engine, |status| status.phase == "up")
        .await
        .pid
        .unwrap();
    engine.survey().await.unwrap();
    kill_process(pid(first), Signal::KILL).unwrap();
    let crashed = until(&engine, |status| status.phase == "backoff").await;
    let cause = crashed.last_error.unwrap();
    assert!(cause.starts_with("it was ended by SIGKILL"), "{cause}");
    timeout(LONG, engine.changed())
        .await
        .expect("it says that it is down");
    let down = engine.survey().await.unwrap_err();
    assert!(down.contains("it is started again in 1 s"), "{down}");
    let refused = answer(&engine).await.unwrap_err();
    assert!(matches!(
        refused.kind,
        FailureKind::Upstream {
            fault: UpstreamFault::Unreachable,
            ..
        }
    ));
    let second = until(&engine, |status| status.phase == "up").await;
    assert_eq!(second.restarts, 1);
    assert_ne!(second.pid, Some(first));
    answer(&engine).await.unwrap();
    engine.close().await;
}

#[tokio::test]
async fn its_death_under_a_request_is_a_failure_of_the_request() {
    let engine = Managed::new(config(&["--die-on-request"])).unwrap();
    let failure = answer(&engine).await.unwrap_err();
    assert!(
        matches!(failure.kind, FailureKind::Upstream { .. }),
        "{failure:?}"
    );
    let status = until(&engine, |status| status.phase == "backoff").await;
    let cause = status.last_error.unwrap();
    assert!(
        cause.contains("SIGABRT") && cause.ends_with("GGML_ASSERT(x) failed"),
        "{cause}"
    );
    engine.close().await;
}

#[tokio::test]
async fn one_that_cannot_start_says_why_and_no_secret() {
    let key = "sk-very-secret";
    let engine = Managed::new(config(&["--api-key", key, "--refuse"])).unwrap();
    let failure = answer(&engine).await.unwrap_err();
    assert!(
        failure.message.contains("exited with code 1"),
        "{}",
        failure.message
    );
    assert!(
        failure.message.contains("error: no such model"),
        "{}",
        failure.message
    );
    let status = format!("{:?} {engine:?}", engine.process().unwrap());
    assert!(
        !status.contains(key) && !status.contains("cret"),
        "{status}"
    );
    assert!(status.contains("--api-key ****"), "{status}");
    engine.close().await;

    let mut missing = config(&[]);
    missing.command = vec![Secret::new("/no/such/llama-server")];
    let engine = Managed::new(missing).unwrap();
    let failure = answer(&engine).await.unwrap_err();
    let wanted = "`/no/such/llama-server` could not be started";
    assert!(failure.message.contains(wanted), "{}", failure.message);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let engine = Managed::new(config(&["--port", &port])).unwrap();
    let failure = answer(&engine).await.unwrap_err();
    let wanted = format!("it cannot listen on port {port} of 127.0.0.1");
    assert!(failure.message.contains(&wanted), "{}", failure.message);
}

#[tokio::test]
async fn it_stops_when_nobody_asks_and_starts_again() {
    let mut config = config(&[]);
    config.idle_timeout = Some(Duration::from_millis(100));
    let engine = Managed::new(config).unwrap();
    let first = answer(&engine).await.unwrap();
    until(&engine, |status| status.phase == "stopped").await;
    assert!(!engine.survey().await.unwrap().models[0].is_loaded);
    let second = answer(&engine).await.unwrap();
    assert_ne!(first, second, "it is another process");
    assert_eq!(engine.process().unwrap().restarts, 0);
    engine.close().await;
}

#[tokio::test]
async fn one_that_ignores_its_end_is_killed_with_all_that_it_started() {
    let mut config = config(&["--ignore-term", "--child"]);
    config.grace = Duration::from_millis(100);
    let engine = Managed::new(config).unwrap();
    answer(&engine).await.unwrap();
    let is_told = |status: &ProcessStatus| status.log.iter().any(|line| line.starts_with("child"));
    let status = until(&engine, is_told).await;
    let told = status
        .log
        .iter()
        .find_map(|line| line.strip_prefix("child "));
    let child: u32 = told.unwrap().parse().unwrap();
    let process = status.pid.unwrap();
    assert!(lives(process) && lives(child));
    engine.close().await;
    assert!(!lives(process));
    until_dead(child).await;
}

#[tokio::test]
async fn one_that_never_gets_ready_is_given_up() {
    let mut config = config(&["--gate", "/no/such/file"]);
    config.start_timeout = Duration::from_secs(1);
    let engine = Managed::new(config).unwrap();
    let failure = answer(&engine).await.unwrap_err();
    assert!(
        failure.message.contains("`start_timeout_secs`"),
        "{}",
        failure.message
    );
    engine.close().await;
}

#[tokio::test]
async fn dropped_it_finishes_its_answers_and_goes() {
    let engine = Managed::new(config(&[])).unwrap();
    let mut events = engine.submit(order()).await.unwrap();
    let process = engine.process().unwrap().pid.unwrap();
    drop(engine);
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event);
    }
    assert!(matches!(last, Some(Answer::Done { .. })), "{last:?}");
    assert!(lives(process));
    drop(events);
    until_dead(process).await;
}

/// The tether of this test is util-linux's.
#[tokio::test]
async fn it_runs_behind_its_tether_under_the_same_pid() {
    if !Path::new("/usr/bin/setpriv").exists() {
        return;
    }
    let mut config = config(&[]);
    config.tether = ["/usr/bin/setpriv", "--pdeathsig", "KILL", "--"]
        .map(Into::into)
        .into();
    let engine = Managed::new(config).unwrap();
    let text = answer(&engine).await.unwrap();
    let process = engine.process().unwrap().pid.unwrap();
    assert!(text.contains(&format!("pid {process}")), "{text}");
    engine.close().await;
}

#[test]
fn engines_are_the_same_when_nothing_about_them_differs() {
    let engine = |change: fn(&mut ManagedConfig)| {
        let mut config = config(&[]);
        change(&mut config);
        Managed::new(config).unwrap()
    };
    let one = engine(|_| {});
    assert!(one.is_same(&engine(|_| {})));
    let changes: [fn(&mut ManagedConfig); 4] = [
        |config| config.command.push(Secret::new("--no-webui")),
        |config| config.start = Start::Always,
        |config| config.idle_timeout = Some(HOUR),
        |config| drop(config.env.insert("A".into(), Secret::new("b"))),
    ];
    for change in changes {
        assert!(!one.is_same(&engine(change)));
    }
}
