//! The CPUs that the calling thread may run on. Linux only; elsewhere nothing is bound.

#[cfg(target_os = "linux")]
pub(crate) type Mask = linux::Mask;
#[cfg(not(target_os = "linux"))]
pub(crate) type Mask = other::Mask;

/// What the calling thread may use.
pub(crate) fn current() -> Option<Mask> {
    Mask::current()
}

/// Binds the calling thread. Where the system refuses, it stays where it is: the CPUs were
/// checked when the model was loaded, and a set that a control group has shrunk meanwhile is
/// no reason to stop.
pub(crate) fn bind(mask: &Mask) {
    mask.bind();
}

#[cfg(target_os = "linux")]
mod linux {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Mask(CpuSet);

    impl Mask {
        /// `None` for no CPU.
        pub(crate) fn of(cpus: &[u32]) -> Option<Self> {
            let mut set = CpuSet::new();
            for cpu in cpus {
                let cpu = *cpu as usize;
                if cpu < CpuSet::MAX_CPU {
                    set.set(cpu);
                }
            }
            (set.count() > 0).then_some(Self(set))
        }

        pub(super) fn current() -> Option<Self> {
            sched_getaffinity(None).ok().map(Self)
        }

        pub(super) fn bind(&self) {
            let _ = sched_setaffinity(None, &self.0);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Mask;

    impl Mask {
        pub(crate) fn of(_: &[u32]) -> Option<Self> {
            None
        }

        pub(super) fn current() -> Option<Self> {
            None
        }

        pub(super) fn bind(&self) {}
    }
}
