//! What is known of a server.

use std::collections::BTreeMap;

use serde_json::Value;

use super::wire::{
    BusEntry, BusEvent, BusState, LogState, MemoryState, ModelState, PullState, ServerState,
};

/// Entries of the stream, each as it was sent and, where we know its kind, as what it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Board {
    /// As they were sent, by their keys.
    pub(crate) entries: BTreeMap<String, Value>,
    pub(crate) server: Option<ServerState>,
    pub(crate) memory: Option<MemoryState>,
    /// By their entries' keys, as all below.
    pub(crate) models: BTreeMap<String, ModelState>,
    pub(crate) pulls: BTreeMap<String, PullState>,
    /// Of the log, where the key may read it.
    pub(crate) log: Option<LogState>,
    /// Entries of a kind that we know which cannot be read, and why.
    pub(crate) unread: BTreeMap<String, String>,
}

impl Board {
    pub(crate) fn take(&mut self, event: BusEvent) {
        match event {
            BusEvent::Snapshot { entries } => {
                *self = Self::default();
                for entry in entries {
                    self.put(entry);
                }
            }
            BusEvent::Upsert { entry } => self.put(entry),
            BusEvent::Remove { key } => self.remove(&key),
            BusEvent::Newer => {}
        }
    }

    fn put(&mut self, BusEntry { key, state }: BusEntry) {
        self.remove(&key);
        match serde_json::from_value(state.clone()) {
            Ok(BusState::Server(server)) => self.server = Some(server),
            Ok(BusState::Memory(memory)) => self.memory = Some(memory),
            Ok(BusState::Log(log)) => self.log = Some(log),
            Ok(BusState::Model(model)) => {
                self.models.insert(key.clone(), *model);
            }
            Ok(BusState::Pull(pull)) => {
                self.pulls.insert(key.clone(), pull);
            }
            Ok(BusState::Other) => {}
            Err(error) => {
                self.unread.insert(key.clone(), error.to_string());
            }
        }
        self.entries.insert(key, state);
    }

    fn remove(&mut self, key: &str) {
        self.entries.remove(key);
        self.models.remove(key);
        self.pulls.remove(key);
        self.unread.remove(key);
        match key {
            "server" => self.server = None,
            "memory" => self.memory = None,
            "log" => self.log = None,
            _ => {}
        }
    }

    /// Those in memory or on their way there first, then by name.
    pub(crate) fn in_order(&self) -> Vec<&ModelState> {
        let mut models: Vec<_> = self.models.values().collect();
        models.sort_by_key(|model| (model.phase == "unloaded", &model.name));
        models
    }

    pub(crate) fn model(&self, name: &str) -> Option<&ModelState> {
        self.models.values().find(|model| model.name == name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> BusEvent {
        serde_json::from_value(value).unwrap()
    }

    fn model(name: &str, phase: &str) -> Value {
        let key = format!("model/{name}");
        json!({ "key": key, "state": { "kind": "model", "name": name, "phase": phase } })
    }

    #[test]
    fn a_snapshot_replaces_changes_add_and_removals_take_away() {
        let mut board = Board::default();
        let entries = json!([
            model("b", "unloaded"),
            model("c", "ready"),
            { "key": "server", "state": { "kind": "server", "version": "1", "started_s": 5 } },
            { "key": "later/x", "state": { "kind": "later", "x": 1 } },
        ]);
        board.take(event(json!({ "type": "snapshot", "entries": entries })));
        let names = |board: &Board| {
            let models = board.in_order().into_iter();
            models.map(|model| model.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&board), ["c", "b"]);
        assert_eq!(
            board.entries.len(),
            4,
            "what is newer is kept as it was sent"
        );
        assert!(board.unread.is_empty());
        let upsert = json!({ "type": "upsert", "entry": model("a", "loading") });
        board.take(event(upsert));
        board.take(event(json!({ "type": "remove", "key": "model/c" })));
        board.take(event(json!({ "type": "remove", "key": "server" })));
        assert_eq!(names(&board), ["a", "b"]);
        assert_eq!((board.server.clone(), board.entries.len()), (None, 3));
        board.take(event(json!({ "type": "snapshot", "entries": [] })));
        assert_eq!(board, Board::default());
    }

    #[test]
    fn an_entry_of_another_shape_is_told_and_not_shown_as_something_else() {
        let mut board = Board::default();
        let entry = json!({ "key": "model/a", "state": { "kind": "model", "name": 5 } });
        board.take(event(json!({ "type": "upsert", "entry": entry })));
        assert!(board.models.is_empty());
        assert!(board.unread["model/a"].contains("string"), "{board:?}");
        board.take(event(
            json!({ "type": "upsert", "entry": model("a", "ready") }),
        ));
        assert!(board.unread.is_empty() && board.models.len() == 1);
    }
}
