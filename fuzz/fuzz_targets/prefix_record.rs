//! Files of the prompt cache, and the states in them: whatever the bytes, an entry is read
//! as it was written or not at all.

#![no_main]

use kv::state::{Form, Kinds};
use libfuzzer_sys::fuzz_target;
use prefix::record::{self, Label};
use prefix::{BLOCK_TOKENS, Fingerprint, Id, Plane, chain};

fuzz_target!(|bytes: &[u8]| {
    let fingerprint = Fingerprint::of([("model", &b"m"[..])]);
    let key = chain(&fingerprint, &[1; BLOCK_TOKENS])[0];
    for plane in Plane::ALL {
        let label = Label {
            fingerprint,
            id: Id { key, plane },
            depth: 0,
        };
        assert!(
            record::decode(bytes, &label).is_err(),
            "a checksum was guessed"
        );
        let file = [&record::header(&label, bytes), bytes].concat();
        assert_eq!(record::decode(&file, &label), Ok(bytes));
    }
    states(bytes);
});

/// A state is taken apart and put together again as it was.
fn states(bytes: &[u8]) {
    let Some((kinds, rest)) = bytes.split_first() else {
        return;
    };
    let kinds = Kinds {
        attention: kinds & 1 != 0,
        window: kinds & 2 != 0,
        recurrent: kinds & 4 != 0,
    };
    let at = usize::from(bytes.get(1).copied().unwrap_or(0)).min(rest.len());
    let Some(form) = Form::find(kinds, rest, &rest[..at]) else {
        return;
    };
    let Some(parts) = form.parts(rest) else {
        return;
    };
    let Some(rows) = parts.rows else {
        return;
    };
    let n = rows.n_cells();
    if let Some(whole) = rows.cut(0, n) {
        let again = form.read(&whole).expect("what was cut can be read");
        assert!(again.is_at(0) && again.n_cells() == n);
        let halves = (rows.cut(0, n / 2), rows.cut(n / 2, n));
        if let (Some(first), Some(second)) = halves {
            let read = |half| form.read(half).expect("a half can be read");
            let sections = [read(&first), read(&second)];
            assert_eq!(kv::state::join(&sections), Some(whole));
        }
    }
}
