//! The worker's protocol over an in-memory stream, with the fake engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail the test"
)]

use std::sync::Arc;

use engine::Shape;
use engine::fake::{FakeDecoder, FakeEmbedder, FakeVocabulary, Script};
use proto::{
    ChatJob, Delta, EmbeddingInput, EmbeddingJob, Event, FailureKind, FinishReason, FromWorker,
    Generation, Job, JobId, LoadFailure, LoadFailureKind, LoadSpec, Message, ModelFacts,
    SamplingOverrides, SamplingValues, SlotPhase, ToWorker, frame,
};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use worker::{Loaded, Loader, ServeError, serve};

struct FakeLoader(Script);

impl Loader for FakeLoader {
    fn load(self, spec: &LoadSpec, progress: &mut dyn FnMut(f32)) -> Result<Loaded, LoadFailure> {
        if spec.path.as_os_str() == "broken" {
            return Err(LoadFailure {
                kind: LoadFailureKind::Artifact,
                message: "broken".into(),
            });
        }
        progress(0.5);
        progress(1.0);
        let shape = Shape {
            context: 300,
            ..FakeDecoder::usual_shape()
        };
        let params = sampling::Params::default();
        Ok(Loaded {
            decoder: Some(Box::new(FakeDecoder::new(shape, self.0))),
            vocabulary: Arc::new(FakeVocabulary),
            embedder: Some(Box::new(FakeEmbedder)),
            prefixes: None,
            facts: ModelFacts {
                name: spec.name.clone(),
                context: 300,
                slots: 2,
                queue_max: 4,
                can_chat: true,
                can_complete: true,
                can_embed: true,
                sampling: SamplingValues {
                    temperature: params.temperature,
                    top_p: params.top_p,
                    typical_p: params.typical_p,
                    repeat_penalty: params.repeat_penalty,
                    dry_base: params.dry_base,
                    ..SamplingValues::default()
                },
                ..ModelFacts::default()
            },
            template: None,
        })
    }
}

/// The endpoint's side of a connection.
struct Endpoint {
    stream: DuplexStream,
    worker: JoinHandle<Result<(), ServeError>>,
}

impl Endpoint {
    fn start(script: Script) -> Self {
        let (stream, theirs) = tokio::io::duplex(1 << 16);
        Self {
            stream,
            worker: tokio::spawn(serve(theirs, FakeLoader(script))),
        }
    }

    /// A worker that has loaded its model.
    async fn ready(script: Script) -> Self {
        let mut endpoint = Self::start(script);
        endpoint
            .send(ToWorker::Hello {
                version: proto::VERSION,
            })
            .await;
        assert!(matches!(
            endpoint.next().await,
            FromWorker::Hello {
                version: proto::VERSION,
                ..
            }
        ));
        endpoint
            .send(ToWorker::Load(Box::new(LoadSpec {
                name: "fake".into(),
                ..LoadSpec::default()
            })))
            .await;
        loop {
            match endpoint.next().await {
                FromWorker::LoadProgress { .. } => {}
                FromWorker::Loaded(facts) => {
                    assert!(facts.template_warnings[0].contains("ChatML is used instead"));
                    assert!(facts.can_chat && !facts.own_template);
                    return endpoint;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    async fn send(&mut self, message: ToWorker) {
        frame::write(&mut self.stream, &message).await.unwrap();
    }

    async fn next(&mut self) -> FromWorker {
        frame::read(&mut self.stream)
            .await
            .unwrap()
            .expect("the worker went away")
    }

    async fn submit(&mut self, id: u64, job: Job) {
        self.send(ToWorker::Submit { id: JobId(id), job }).await;
    }

    /// The events of a job up to its last one.
    async fn events(&mut self, id: u64) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            if let FromWorker::Event {
                id: JobId(of),
                event,
            } = self.next().await
                && of == id
            {
                let last = event.is_last();
                events.push(event);
                if last {
                    return events;
                }
            }
        }
    }
}

fn chat(text: &str, generation: Generation) -> Job {
    let message = Message {
        content: Some(text.into()),
        ..Message::default()
    };
    Job::Chat(Box::new(ChatJob {
        messages: vec![message],
        generation,
        ..ChatJob::default()
    }))
}

fn greedy() -> Generation {
    let sampling = SamplingOverrides {
        temperature: Some(0.0),
        ..SamplingOverrides::default()
    };
    Generation {
        n: 1,
        max_tokens: Some(50),
        sampling,
        ..Generation::default()
    }
}

fn text_of(events: &[Event]) -> String {
    let text = |event: &Event| match event {
        Event::Delta {
            delta: Delta::Text { text },
            ..
        } => Some(text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

#[tokio::test]
async fn a_chat_is_answered_in_order() {
    let mut endpoint = Endpoint::ready(Script::Say("Hello there".into())).await;
    endpoint.submit(1, chat("hi", greedy())).await;
    let events = endpoint.events(1).await;
    assert!(matches!(events[0], Event::Started { .. }));
    assert_eq!(text_of(&events), "Hello there");
    let [.., finished, Event::Prefix(_), done] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(matches!(
        finished,
        Event::Finished {
            choice: 0,
            reason: FinishReason::Stop,
            ..
        }
    ));
    let Event::Done { usage, .. } = done else {
        panic!("{done:?}")
    };
    assert_eq!(usage.completion_tokens, 12);
}

#[tokio::test]
async fn reasoning_is_told_apart_from_the_answer() {
    let mut endpoint = Endpoint::ready(Script::Say("<think>hm</think>yes".into())).await;
    endpoint.submit(1, chat("hi", greedy())).await;
    let events = endpoint.events(1).await;
    assert_eq!(text_of(&events), "yes");
    let thought: String = events
        .iter()
        .filter_map(|event| match event {
            Event::Delta {
                delta: Delta::Reasoning { text },
                ..
            } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(thought, "hm");
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let mut endpoint = Endpoint::ready(Script::Hash).await;
    endpoint.submit(1, chat(&"x".repeat(400), greedy())).await;
    let [Event::Failed(failure)] = &endpoint.events(1).await[..] else {
        panic!()
    };
    assert!(matches!(
        failure.kind,
        FailureKind::ContextExceeded { context: 300, .. }
    ));
    let sampling = SamplingOverrides {
        top_p: Some(7.0),
        ..SamplingOverrides::default()
    };
    endpoint
        .submit(
            2,
            chat(
                "x",
                Generation {
                    sampling,
                    ..Generation::default()
                },
            ),
        )
        .await;
    let [Event::Failed(failure)] = &endpoint.events(2).await[..] else {
        panic!()
    };
    assert_eq!(failure.param.as_deref(), Some("top_p"));
    endpoint
        .submit(3, Job::Detokenize { tokens: vec![9999] })
        .await;
    let [Event::Failed(failure)] = &endpoint.events(3).await[..] else {
        panic!()
    };
    assert!(failure.message.contains("9999"));
}

#[tokio::test]
async fn a_cancelled_job_frees_its_slot() {
    let mut endpoint = Endpoint::ready(Script::Hash).await;
    let endless = Generation {
        max_tokens: None,
        ..greedy()
    };
    endpoint.submit(1, chat("go on", endless)).await;
    assert!(matches!(
        endpoint.next().await,
        FromWorker::Event {
            event: Event::Started { .. },
            ..
        }
    ));
    endpoint.send(ToWorker::Cancel { id: JobId(1) }).await;
    let events = endpoint.events(1).await;
    let last = events.last().unwrap();
    // The answer may have come to its end first; both are the last event.
    assert!(last.is_last(), "{last:?}");
    endpoint.send(ToWorker::Inspect { ticket: 5 }).await;
    let FromWorker::State { ticket: 5, state } = endpoint.next().await else {
        panic!()
    };
    assert!(state.slots.iter().all(|slot| slot.phase == SlotPhase::Idle));
    assert_eq!(state.slots.len(), 2);
}

#[tokio::test]
async fn embeddings_and_tokens_need_no_slot() {
    let mut endpoint = Endpoint::ready(Script::Hash).await;
    let inputs = vec![
        EmbeddingInput::Text("a".into()),
        EmbeddingInput::Tokens(vec![98]),
    ];
    endpoint
        .submit(1, Job::Embedding(EmbeddingJob { inputs }))
        .await;
    let [
        Event::Embeddings {
            vectors,
            prompt_tokens: 2,
        },
    ] = &endpoint.events(1).await[..]
    else {
        panic!()
    };
    assert_eq!(vectors.len(), 2);
    let job = Job::Tokenize {
        text: "ab".into(),
        add_special: true,
        parse_special: true,
        with_pieces: true,
    };
    endpoint.submit(2, job).await;
    let [
        Event::Tokens {
            tokens,
            pieces: Some(pieces),
        },
    ] = &endpoint.events(2).await[..]
    else {
        panic!()
    };
    assert_eq!(
        (tokens.as_slice(), pieces.as_slice()),
        (&[97, 98][..], &["a".to_owned(), "b".into()][..])
    );
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_refuses_the_rest() {
    let mut endpoint = Endpoint::ready(Script::Say("done".into())).await;
    endpoint.submit(1, chat("hi", greedy())).await;
    assert!(matches!(
        endpoint.next().await,
        FromWorker::Event {
            event: Event::Started { .. },
            ..
        }
    ));
    endpoint.send(ToWorker::Drain).await;
    endpoint.submit(2, chat("too late", greedy())).await;
    let (mut drained, mut refused, mut done) = (false, false, false);
    while !(drained && refused && done) {
        match endpoint.next().await {
            FromWorker::Drained => drained = true,
            FromWorker::Event {
                id: JobId(1),
                event: Event::Done { .. },
            } => done = true,
            FromWorker::Event {
                id: JobId(2),
                event: Event::Failed(failure),
            } => {
                assert_eq!(failure.kind, FailureKind::Draining);
                refused = true;
            }
            _ => {}
        }
    }
    drop(endpoint.stream);
    endpoint.worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_of_another_version_is_refused() {
    let mut endpoint = Endpoint::start(Script::Hash);
    endpoint.send(ToWorker::Hello { version: 999 }).await;
    let error = endpoint.worker.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Version { theirs: 999, .. }));
}

#[tokio::test]
async fn a_failed_load_ends_the_worker() {
    let mut endpoint = Endpoint::start(Script::Hash);
    endpoint
        .send(ToWorker::Hello {
            version: proto::VERSION,
        })
        .await;
    endpoint.next().await;
    endpoint
        .send(ToWorker::Load(Box::new(LoadSpec {
            path: "broken".into(),
            ..LoadSpec::default()
        })))
        .await;
    let FromWorker::LoadFailed(failure) = endpoint.next().await else {
        panic!()
    };
    assert_eq!(failure.kind, LoadFailureKind::Artifact);
    endpoint.worker.await.unwrap().unwrap();
}
