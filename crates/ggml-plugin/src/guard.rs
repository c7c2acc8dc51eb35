//! No panic crosses into C.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of a function that C calls. A panic, which is a mistake of ours, has been
/// reported by the panic hook already and becomes `otherwise`.
pub(crate) fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}
