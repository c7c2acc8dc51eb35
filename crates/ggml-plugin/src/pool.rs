//! Threads that compute one graph together.
//!
//! The caller is thread 0. Whoever waits, at a barrier or for the next graph, spins for a
//! moment and then sleeps: what he waits for is usually a matter of microseconds, but
//! with more threads than free cores it can be one of milliseconds. Nobody yields: since
//! Linux 6.18 that forfeits a whole slice.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Rounds of spinning before a thread sleeps: some hundred microseconds.
const SPIN_ROUNDS: u32 = 8 << 10;

/// A number that threads can wait for to change.
#[derive(Debug, Default)]
struct Signal {
    value: AtomicUsize,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Signal {
    fn get(&self) -> usize {
        self.value.load(Ordering::Acquire)
    }

    /// Changes the number, and wakes who sleeps for it.
    fn set(&self, value: usize) {
        self.value.store(value, Ordering::SeqCst);
        // A sleeper counts itself before it looks at the number for the last time, so
        // either it is counted here or it sees the new number.
        if self.sleepers.load(Ordering::SeqCst) != 0 {
            let _lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.changed.notify_all();
        }
    }

    /// Returns once the number is no longer `old`.
    fn wait_while(&self, old: usize) {
        for _ in 0..SPIN_ROUNDS {
            if self.get() != old {
                return;
            }
            std::hint::spin_loop();
        }
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.value.load(Ordering::SeqCst) == old {
            lock = self
                .changed
                .wait(lock)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Makes `threads` threads wait for each other.
#[derive(Debug)]
pub(crate) struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    generation: Signal,
}

impl Barrier {
    fn new(threads: usize) -> Self {
        Self {
            threads,
            arrived: AtomicUsize::new(0),
            generation: Signal::default(),
        }
    }

    /// Returns once all threads have called it; what they wrote before is then seen.
    pub(crate) fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let generation = self.generation.get();
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation.set(generation.wrapping_add(1));
        } else {
            self.generation.wait_while(generation);
        }
    }
}

/// One thread's part of a job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) thread: usize,
    pub(crate) threads: usize,
    pub(crate) barrier: &'a Barrier,
}

impl Part<'_> {
    /// This thread's share of `count` things.
    pub(crate) fn share(&self, count: usize) -> std::ops::Range<usize> {
        count * self.thread / self.threads..count * (self.thread + 1) / self.threads
    }
}

/// What every thread runs. It lives until all have returned from it.
type Job = *const (dyn Fn(Part<'_>) + Sync);

#[derive(Debug)]
struct Shared {
    barrier: Barrier,
    /// Counts jobs; a thread that has done `n` waits until it is more.
    posted: Signal,
    job: Mutex<Option<SendJob>>,
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
            barrier: Barrier::new(threads),
            posted: Signal::default(),
            job: Mutex::new(None),
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

    /// Runs `job` on every thread and returns when all are done.
    ///
    /// The process ends where a thread panics: the others would wait for ever at their
    /// next barrier, and use what the job borrows.
    pub(crate) fn run(&mut self, job: &(dyn Fn(Part<'_>) + Sync)) {
        let shared = &*self.shared;
        if self.threads > 1 {
            // SAFETY: only the lifetime changes; this function returns after the last use.
            let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(Part<'_>) + Sync), Job>(job) };
            *shared.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(SendJob(job));
            shared.post();
        }
        or_abort(|| {
            job(Part {
                thread: 0,
                threads: self.threads,
                barrier: &shared.barrier,
            })
        });
        // Nobody is at the job any more once all have come here.
        shared.barrier.wait();
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
        self.posted.set(self.posted.get().wrapping_add(1));
    }
}

fn work(shared: &Shared, thread: usize) {
    let mut done = 0usize;
    loop {
        shared.posted.wait_while(done);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        done = done.wrapping_add(1);
        let job = *shared.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(SendJob(job)) = job {
            let part = Part {
                thread,
                threads: shared.barrier.threads,
                barrier: &shared.barrier,
            };
            // SAFETY: `Pool::run` keeps the job until `running` is 0.
            let job = unsafe { &*job };
            or_abort(|| job(part));
        }
        shared.barrier.wait();
    }
}

fn or_abort(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        std::process::abort();
    }
}
