//! Ending a forward pass early once nobody wants its result.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::JobKey;

/// Tells the scheduler from another thread that a job is unwanted, so that a pass
/// which serves only such jobs is aborted. The cancellation itself is
/// [`crate::Scheduler::cancel`], which the caller must still make.
#[derive(Debug, Clone)]
pub struct Canceller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    jobs: Mutex<Jobs>,
    abort: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Jobs {
    /// Served by the pass that runs now.
    current: HashSet<JobKey>,
    unwanted: HashSet<JobKey>,
}

impl Jobs {
    fn is_pass_unwanted(&self) -> bool {
        !self.current.is_empty() && self.current.is_subset(&self.unwanted)
    }
}

impl Canceller {
    pub(crate) fn new(abort: Arc<AtomicBool>) -> Self {
        Self {
            shared: Arc::new(Shared {
                jobs: Mutex::default(),
                abort,
            }),
        }
    }

    /// The job's caller is gone.
    pub fn hint(&self, key: JobKey) {
        let mut jobs = self.lock();
        jobs.unwanted.insert(key);
        if jobs.is_pass_unwanted() {
            self.shared.abort.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn forget(&self, key: JobKey) {
        self.lock().unwanted.remove(&key);
    }

    pub(crate) fn begin_pass(&self, keys: impl Iterator<Item = JobKey>) {
        let mut jobs = self.lock();
        jobs.current = keys.collect();
        let unwanted = jobs.is_pass_unwanted();
        self.shared.abort.store(unwanted, Ordering::Relaxed);
    }

    pub(crate) fn end_pass(&self) {
        let mut jobs = self.lock();
        jobs.current.clear();
        self.shared.abort.store(false, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.shared
            .jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
