//! Request bodies, which come from anyone. What the edge accepts must reach a
//! worker unharmed: its job is encoded, decoded and compared. What it refuses is
//! refused with a message. The first byte picks the route.

#![no_main]

use gateway::ApiError;
use gateway::wire::openai::{ChatRequest, CompletionRequest, chat_plan, completion_plan};
use libfuzzer_sys::fuzz_target;
use proto::{Job, JobId, ToWorker, frame};

fuzz_target!(|bytes: &[u8]| {
    let Some((route, body)) = bytes.split_first() else {
        return;
    };
    if route % 2 == 0 {
        let Ok(request) = serde_json::from_slice::<ChatRequest>(body) else {
            return;
        };
        match chat_plan(request) {
            Ok(plan) => delivered(Job::Chat(Box::new(plan.job))),
            Err(error) => refused(&error),
        }
    } else {
        let Ok(request) = serde_json::from_slice::<CompletionRequest>(body) else {
            return;
        };
        match completion_plan(request) {
            Ok(plan) => {
                for job in plan.jobs {
                    delivered(Job::Completion(Box::new(job)));
                }
            }
            Err(error) => refused(&error),
        }
    }
});

fn delivered(job: Job) {
    let message = ToWorker::Submit { id: JobId(1), job };
    let sent = frame::encode(&message).expect("an accepted job encodes");
    let (arrived, _) = frame::decode::<ToWorker>(&sent)
        .expect("an accepted job decodes")
        .expect("a frame is whole");
    assert_eq!(message, arrived);
}

fn refused(error: &ApiError) {
    let message = &error.body()["error"]["message"];
    assert!(message.as_str().is_some_and(|message| !message.is_empty()));
}
