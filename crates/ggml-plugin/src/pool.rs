//! Threads that compute one graph together.
//!
//! The caller is thread 0. Nobody waits for a thread that has not come: work is taken piece by
//! piece, so what one thread does not get to, because its core has something else to do, the
//! others do. Waited for are only pieces that somebody has begun, and, at the end, whoever came.
//!
//! Whoever waits, for those or for the next graph, spins for a moment and then sleeps: it is
//! usually a matter of microseconds, but where a core is busy with something else it can be one
//! of milliseconds. Nobody yields: since Linux 6.18 that forfeits a whole slice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Rounds of spinning before a thread sleeps: some hundred microseconds.
const SPIN_ROUNDS: u32 = 8 << 10;

/// Where threads wait for something that others bring about by writing to an atomic.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    rung: Condvar,
}

impl Bell {
    /// Wakes who sleeps. To be called after each write that somebody may wait for, which is
    /// to be sequentially consistent.
    pub(crate) fn ring(&self) {
        // A sleeper counts itself before it looks for the last time, so either it is counted
        // here or it sees what was written.
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.rung.notify_all();
        }
    }

    /// Returns once it is so, which is to be asked of the atomic by a sequentially consistent
    /// load.
    pub(crate) fn wait_until(&self, is_so: impl Fn() -> bool) {
        for _ in 0..SPIN_ROUNDS {
            if is_so() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !is_so() {
            lock = self.rung.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Somewhere to be in, until it is closed.
#[derive(Debug)]
struct Gate(AtomicUsize);

/// The gate is closed; the other bits count who is in.
const CLOSED: usize = 1 << (usize::BITS - 1);

impl Gate {
    /// Says whether it is still open; then the caller is in.
    fn enter(&self) -> bool {
        let step_in = |state: usize| (state & CLOSED == 0).then_some(state + 1);
        let entered = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step_in);
        entered.is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    fn close(&self) {
        self.0.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether it is closed and nobody is in. What they wrote in there is then seen.
    fn is_over(&self) -> bool {
        self.0.load(Ordering::SeqCst) == CLOSED
    }

    /// For the next time. Nobody may be in.
    fn open(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// One thread's part of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) thread: usize,
    pub(crate) threads: usize,
}

impl Part {
    /// This thread's share of `count` things.
    pub(crate) fn share(&self, count: usize) -> std::ops::Range<usize> {
        count * self.thread / self.threads..count * (self.thread + 1) / self.threads
    }
}

/// What every thread runs. It lives until all have returned from it.
type Job = *const (dyn Fn(Part) + Sync);

#[derive(Debug)]
struct Shared {
    threads: usize,
    /// Counts jobs; a thread waits until it changes.
    posted: AtomicUsize,
    news: Bell,
    job: Mutex<Option<SendJob>>,
    /// Of the job: who is in uses it.
    gate: Gate,
    left: Bell,
    stop: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct SendJob(Job);

// SAFETY: the job is `Sync`, and `Pool::run` keeps it alive while threads use it.
unsafe impl Send for SendJob {}

/// A fixed number of threads, the caller's included.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: usize,
    handles: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts `threads - 1` threads; fewer where the system refuses one.
    pub(crate) fn start(threads: usize) -> Self {
        let mut handles = Vec::new();
        let mut pool = Self::shared(threads.max(1));
        for thread in 1..pool.threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name("kernels".to_owned());
            match builder.spawn(move || work(&shared, thread)) {
                Ok(handle) => handles.push(handle),
                Err(_) => {
                    pool.handles = handles;
                    drop(pool);
                    return Self::shared(1);
                }
            }
        }
        pool.handles = handles;
        pool
    }

    fn shared(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            threads,
            posted: AtomicUsize::new(0),
            news: Bell::default(),
            job: Mutex::new(None),
            gate: Gate(AtomicUsize::new(CLOSED)),
            left: Bell::default(),
            stop: AtomicBool::new(false),
        });
        Self {
            shared,
            threads,
            handles: Vec::new(),
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `job` on this thread, and on those others that come while it does. Returns when
    /// none of them is at it any more.
    ///
    /// The process ends where a thread panics: the others would wait for ever for what it has
    /// begun, and use what the job borrows.
    pub(crate) fn run(&mut self, job: &(dyn Fn(Part) + Sync)) {
        let shared = &*self.shared;
        if self.threads > 1 {
            // SAFETY: only the lifetime changes; this function returns after the last use.
            let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(Part) + Sync), Job>(job) };
            *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(SendJob(job));
        }
        shared.gate.open();
        if self.threads > 1 {
            shared.post();
        }
        or_abort(|| {
            job(Part {
                thread: 0,
                threads: self.threads,
            });
        });
        shared.gate.close();
        shared.left.wait_until(|| shared.gate.is_over());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.post();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

/// The pools of a back end.
///
/// A thread runs where the one that started it may run. So a host that binds its own thread
/// to other CPUs for prompts than for single tokens has a pool for each, and one that asks
/// for other numbers of threads too.
#[derive(Debug, Default)]
pub(crate) struct Pools(Vec<(Key, Pool)>);

/// Pools that are kept: for prompts, and for single tokens.
const POOLS_MAX: usize = 2;

type Key = (usize, Option<Cpus>);

impl Pools {
    /// The pool of so many threads that run where the caller may.
    pub(crate) fn get(&mut self, threads: usize) -> &mut Pool {
        let key = (threads, cpus_of_caller());
        let known = self.0.iter().position(|(known, _)| *known == key);
        // The one in use is the last.
        match known {
            Some(at) => self.0[at..].rotate_left(1),
            None => {
                if self.0.len() == POOLS_MAX {
                    // Its threads end before others begin.
                    drop(self.0.remove(0));
                }
                self.0.push((key, Pool::start(threads)));
            }
        }
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }
}

#[cfg(target_os = "linux")]
type Cpus = rustix::thread::CpuSet;

#[cfg(target_os = "linux")]
fn cpus_of_caller() -> Option<Cpus> {
    rustix::thread::sched_getaffinity(None).ok()
}

#[cfg(not(target_os = "linux"))]
type Cpus = ();

#[cfg(not(target_os = "linux"))]
fn cpus_of_caller() -> Option<Cpus> {
    None
}

impl Shared {
    /// Tells the threads that there is something new.
    fn post(&self) {
        self.posted.fetch_add(1, Ordering::SeqCst);
        self.news.ring();
    }
}

fn work(shared: &Shared, thread: usize) {
    let mut seen = 0;
    loop {
        let posted = || shared.posted.load(Ordering::SeqCst);
        shared.news.wait_until(|| posted() != seen);
        seen = posted();
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        // Whoever comes too late has missed nothing.
        if !shared.gate.enter() {
            continue;
        }
        let job = *shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(SendJob(job)) = job {
            let part = Part {
                thread,
                threads: shared.threads,
            };
            // SAFETY: `Pool::run` keeps the job while somebody is in.
            let job = unsafe { &*job };
            or_abort(|| job(part));
        }
        // It may have come to the job before that was posted. No newer one is while it is in.
        seen = posted();
        shared.gate.leave();
        shared.left.ring();
    }
}

fn or_abort(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        std::process::abort();
    }
}
