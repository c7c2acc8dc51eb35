//! The threads of one context.
//!
//! ggml can also use OpenMP, and is built without it here. OpenMP gives each thread that
//! computes a team of its own and keeps it; with more threads in teams than cores libgomp
//! no longer spins but sleeps at each of the hundreds of barriers of a token, which
//! halved the speed of a small model. ggml's own threads belong to a context, their
//! barrier is cheaper (one stream of SmolLM2 on two cores: 1.1 times), and one library
//! less is needed.

use std::ptr::NonNull;

use crate::plugin;
use llama_cpp_sys_2 as sys;

/// A pool of ggml's own threads. Between two graphs they spin for a moment and then
/// sleep, or sleep at once where our kernels do most; at a barrier inside a graph they
/// spin.
#[derive(Debug)]
pub(crate) struct ThreadPool(NonNull<sys::ggml_threadpool>);

// SAFETY: ggml ties a pool to no thread; it is used through one context at a time.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// Starts the threads; the caller's own thread is one of them.
    pub(crate) fn start(threads: u32) -> Option<Self> {
        let n_threads = i32::try_from(threads.max(1)).unwrap_or(i32::MAX);
        // SAFETY: returns a plain struct.
        let mut params = unsafe { sys::ggml_threadpool_params_default(n_threads) };
        if plugin::is_registered() {
            // Our kernels' threads have the cores between the few graphs of this pool.
            params.poll = 0;
        }
        // SAFETY: the parameters are read during the call only.
        NonNull::new(unsafe { sys::ggml_threadpool_new(&raw mut params) }).map(Self)
    }

    pub(crate) fn as_ptr(&self) -> sys::ggml_threadpool_t {
        self.0.as_ptr()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `ggml_threadpool_new` and is freed once, after
        // the context that it is attached to.
        unsafe { sys::ggml_threadpool_free(self.0.as_ptr()) };
    }
}
