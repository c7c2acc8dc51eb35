//! Turning C strings and fill-the-buffer calls into Rust values.

use std::ffi::{CStr, c_char};

/// Copies a C string; a null pointer gives an empty string.
pub(crate) fn string(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: every caller passes a NUL-terminated string that llama.cpp owns and
    // keeps alive for the time of this call.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

/// Runs a call that writes into a buffer and returns the length it needed,
/// snprintf-like, without the final NUL. A negative length means "no such value".
pub(crate) fn sized_string(call: impl Fn(*mut c_char, usize) -> i32) -> Option<String> {
    let mut buffer = vec![0_u8; 256];
    loop {
        let needed = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).ok()?;
        if needed < buffer.len() {
            buffer.truncate(needed);
            return Some(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer.resize(needed + 1, 0);
    }
}
