//! States that were put away: whatever the bytes, they are decoded into no more than may be, or
//! refused; and whatever a state holds, it comes back.

#![no_main]

use kv::parked::{self, Level, Options};
use kv::state::{Form, Kinds};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = parked::decode(bytes, None, LIMIT) {
        assert!(state.len() <= LIMIT);
    }
    // With the header made right, so that what is behind it is read.
    if let Ok(state) = parked::decode(&parked::signed(bytes), None, LIMIT) {
        assert!(state.len() <= LIMIT);
    }
    let stream = parked::encode_bytes(bytes);
    assert_eq!(
        parked::decode(&stream, None, bytes.len()).as_deref(),
        Ok(bytes)
    );
    sections(bytes);
});

/// Keys and values of a state, at every level.
fn sections(bytes: &[u8]) {
    let kinds = Kinds {
        attention: true,
        window: false,
        recurrent: false,
    };
    let Some(form) = Form::find(kinds, bytes, bytes) else {
        return;
    };
    let Some(section) = form.parts(bytes).and_then(|parts| parts.rows) else {
        return;
    };
    for level in Level::ALL {
        let options = Options {
            exact_first: 1,
            ..Options::new(level)
        };
        let stream = parked::encode(&section, &options);
        let restored = parked::decode(&stream, None, bytes.len()).expect("what was encoded");
        if level == Level::Lossless {
            assert!(bytes.ends_with(&restored));
        }
    }
}
