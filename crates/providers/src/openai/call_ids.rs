//! Ids of tool calls that are unlike all others of a conversation.

use std::collections::HashSet;

use proto::Job;

/// Gives the calls of one answer their ids.
///
/// Some engines give none, and some count from 0 again in every answer. An agent that finds
/// an id which it has a result for takes the call for done, and asks again for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CallIds {
    taken: HashSet<String>,
    salt: u64,
    n_made: u32,
}

impl CallIds {
    /// For the answer to `job`. `salt` is any number that no other answer has.
    pub(crate) fn new(job: &Job, salt: u64) -> Self {
        let messages = match job {
            Job::Chat(job) => job.messages.as_slice(),
            _ => &[],
        };
        let calls = messages.iter().flat_map(|message| &message.tool_calls);
        Self {
            taken: calls.map(|call| call.id.clone()).collect(),
            salt,
            n_made: 0,
        }
    }

    /// The engine's own id where it is one, else one that we make.
    pub(crate) fn take(&mut self, given: Option<&str>) -> String {
        if let Some(id) = given.filter(|id| !self.taken.contains(*id)) {
            self.taken.insert(id.to_owned());
            return id.to_owned();
        }
        let id = format!("call_{:016x}{:08x}", self.salt, self.n_made);
        self.n_made += 1;
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{ChatJob, Message, ToolCall};

    #[test]
    fn an_id_is_kept_unless_the_conversation_has_it() {
        let call = ToolCall {
            id: "call_0".into(),
            ..ToolCall::default()
        };
        let job = ChatJob {
            messages: vec![Message {
                tool_calls: vec![call],
                ..Message::default()
            }],
            ..ChatJob::default()
        };
        let mut ids = CallIds::new(&Job::Chat(Box::new(job)), 0xab);
        let made = |n| format!("call_00000000000000ab{n:08x}");
        assert_eq!(ids.take(Some("call_0")), made(0));
        assert_eq!(ids.take(Some("call_1")), "call_1");
        assert_eq!(ids.take(Some("call_1")), made(1));
        assert_eq!(ids.take(None), made(2));
    }
}
