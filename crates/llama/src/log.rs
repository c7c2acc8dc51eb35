//! llama.cpp's log, line by line, to one Rust function.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_sys_2 as sys;

use crate::ffi;

/// Receives whole lines without their line end.
pub type LogSink = fn(Level, &str);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// llama.cpp logs in pieces; the sink wants lines.
struct Lines {
    sink: LogSink,
    pending: Mutex<(Option<Level>, String)>,
}

/// Longest line kept; the rest of a longer one is dropped.
const LINE_BYTES_MAX: usize = 4096;

static LINES: OnceLock<Lines> = OnceLock::new();

pub(crate) fn install(sink: LogSink) {
    let lines = LINES.get_or_init(|| Lines {
        sink,
        pending: Mutex::new((None, String::new())),
    });
    let user_data = std::ptr::from_ref(lines).cast_mut().cast::<c_void>();
    // SAFETY: `lines` is 'static and `receive` only reads it as `&Lines`.
    unsafe { sys::llama_log_set(Some(receive), user_data) };
}

extern "C" fn receive(level: sys::ggml_log_level, text: *const c_char, user_data: *mut c_void) {
    // A panic must not cross into C; a lost log line is the lesser harm.
    let _ = std::panic::catch_unwind(|| {
        // SAFETY: `user_data` is the `&'static Lines` given to `llama_log_set`.
        let lines = unsafe { &*user_data.cast::<Lines>() };
        lines.push(level, &ffi::string(text));
    });
}

impl Lines {
    fn push(&self, level: sys::ggml_log_level, text: &str) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if level != sys::GGML_LOG_LEVEL_CONT {
            pending.0 = Some(match level {
                sys::GGML_LOG_LEVEL_ERROR => Level::Error,
                sys::GGML_LOG_LEVEL_WARN => Level::Warn,
                sys::GGML_LOG_LEVEL_INFO => Level::Info,
                _ => Level::Debug,
            });
        }
        let room = LINE_BYTES_MAX.saturating_sub(pending.1.len());
        pending.1.push_str(&text[..text.floor_char_boundary(room)]);
        if text.ends_with('\n') {
            let (level, text) = std::mem::take(&mut *pending);
            drop(pending);
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                (self.sink)(level.unwrap_or(Level::Debug), line.trim_end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_lines() {
        static SEEN: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());
        let lines = Lines {
            sink: |level, line| SEEN.lock().unwrap().push((level, line.to_owned())),
            pending: Mutex::new((None, String::new())),
        };
        lines.push(sys::GGML_LOG_LEVEL_WARN, "half");
        lines.push(sys::GGML_LOG_LEVEL_CONT, " and half\n");
        lines.push(sys::GGML_LOG_LEVEL_INFO, "\nwhole\n");
        let seen = SEEN.lock().unwrap();
        assert_eq!(
            *seen,
            [
                (Level::Warn, "half and half".to_owned()),
                (Level::Info, "whole".to_owned())
            ]
        );
    }
}
