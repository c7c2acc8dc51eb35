//! The threads of one context.
//!
//! ggml can also use OpenMP, and is built without it here. OpenMP gives each thread that
//! computes a team of its own and keeps it; with more threads in teams than cores libgomp
//! no longer spins but sleeps at each of the hundreds of barriers of a token, which
//! halved the speed of a small model. ggml's own threads belong to a context, their
//! barrier is cheaper (one stream of SmolLM2 on two cores: 1.1 times), and one library
//! less is needed.

use std::ptr::NonNull;

use crate::affinity::{self, Mask};
use crate::plugin;
use llama_cpp_sys_2 as sys;

/// On how many threads to compute, and on which CPUs; none stands for wherever the system
/// puts them. A pass over one token generates, one over more reads a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    pub threads: u32,
    pub threads_batch: u32,
    pub cpus: Vec<u32>,
    pub cpus_batch: Vec<u32>,
}

/// The threads of a context, for each kind of pass.
///
/// A thread runs where the one that started it may run. So the caller is bound before it
/// starts a pool, and again before each pass: it computes too, and our kernels' threads are
/// started by it.
#[derive(Debug)]
pub(crate) struct Threads {
    decode: ThreadPool,
    /// `None` where it would be the same.
    prefill: Option<ThreadPool>,
    placement: Placement,
    /// What the process may use; `None` where the system does not say.
    anywhere: Option<Mask>,
}

impl Threads {
    pub(crate) fn start(placement: Placement) -> Option<Self> {
        let anywhere = affinity::current();
        let bound = Bound(anywhere);
        bound.to(&placement.cpus);
        let is_same = placement.cpus == placement.cpus_batch;
        let threads = match is_same {
            true => placement.threads.max(placement.threads_batch),
            false => placement.threads,
        };
        let decode = ThreadPool::start(threads)?;
        let prefill = if is_same {
            None
        } else {
            bound.to(&placement.cpus_batch);
            Some(ThreadPool::start(placement.threads_batch)?)
        };
        Some(Self {
            decode,
            prefill,
            placement,
            anywhere,
        })
    }

    /// Gives the threads to a context.
    ///
    /// # Safety
    /// The context must be live, and must not compute after these threads are dropped.
    pub(crate) unsafe fn attach(&self, context: *mut sys::llama_context) {
        let prefill = self.prefill.as_ref().unwrap_or(&self.decode);
        // SAFETY: the caller's promise; the pools are live.
        unsafe {
            sys::llama_attach_threadpool(context, self.decode.0.as_ptr(), prefill.0.as_ptr())
        };
    }

    /// Binds the calling thread to the CPUs for a pass over so many tokens.
    pub(crate) fn bind_caller(&self, n_tokens: usize) {
        let Placement {
            cpus, cpus_batch, ..
        } = &self.placement;
        if cpus.is_empty() && cpus_batch.is_empty() {
            return;
        }
        let cpus = if n_tokens > 1 { cpus_batch } else { cpus };
        bind(cpus, self.anywhere);
    }
}

fn bind(cpus: &[u32], anywhere: Option<Mask>) {
    match (Mask::of(cpus), anywhere) {
        (Some(mask), _) | (None, Some(mask)) => affinity::bind(&mask),
        (None, None) => {}
    }
}

/// Binds the calling thread until it is dropped.
struct Bound(Option<Mask>);

impl Bound {
    fn to(&self, cpus: &[u32]) {
        bind(cpus, self.0);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        bind(&[], self.0);
    }
}

/// A pool of ggml's own threads. Between two graphs they spin for a moment and then
/// sleep, or sleep at once where our kernels do most; at a barrier inside a graph they
/// spin.
#[derive(Debug)]
struct ThreadPool(NonNull<sys::ggml_threadpool>);

// SAFETY: ggml ties a pool to no thread; it is used through one context at a time.
unsafe impl Send for ThreadPool {}

impl ThreadPool {
    /// Starts the threads; the caller's own thread is one of them.
    fn start(threads: u32) -> Option<Self> {
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
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `ggml_threadpool_new` and is freed once, after
        // the context that it is attached to.
        unsafe { sys::ggml_threadpool_free(self.0.as_ptr()) };
    }
}
