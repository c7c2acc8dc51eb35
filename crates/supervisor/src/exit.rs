//! How a worker ended, in words a person can act on.

use process::ProcessEnd;

/// How a worker ended and what it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) end: ProcessEnd,
    /// What was wrong with the connection, where that came first.
    pub(crate) fault: Option<String>,
    pub(crate) log: Vec<String>,
}

impl Exit {
    /// The cause as one text: what happened, then the last log lines, one a line.
    pub(crate) fn cause(&self) -> String {
        let mut cause = match (&self.fault, &self.end) {
            (Some(fault), end) => format!("the worker {fault}; then it {}", end),
            (None, end) => format!("the worker {}", end),
        };
        append_log(&mut cause, &self.log);
        cause
    }
}

/// Adds the log lines to a cause, each on its own line.
pub(crate) fn append_log(cause: &mut String, log: &[String]) {
    if log.is_empty() {
        return;
    }
    cause.push_str("; its last log lines were:");
    for line in log {
        cause.push_str("\n  ");
        cause.push_str(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_name_signals_and_quote_the_log() {
        let exit = |end, fault: Option<&str>, log: &[&str]| {
            Exit {
                end,
                fault: fault.map(str::to_owned),
                log: log.iter().map(|&line| line.to_owned()).collect(),
            }
            .cause()
        };
        assert_eq!(
            exit(ProcessEnd::Signal(9), None, &[]),
            "the worker was ended by SIGKILL (possibly the kernel's out-of-memory killer; \
             see `dmesg`)"
        );
        assert_eq!(
            exit(ProcessEnd::Signal(6), None, &["GGML_ASSERT(x) failed"]),
            "the worker was ended by SIGABRT (an internal check failed); its last log lines \
             were:\n  GGML_ASSERT(x) failed"
        );
        assert_eq!(
            exit(ProcessEnd::Signal(40), None, &[]),
            "the worker was ended by signal 40"
        );
        assert_eq!(
            exit(
                ProcessEnd::Code(3),
                Some("closed its connection"),
                &["a", "b"]
            ),
            "the worker closed its connection; then it exited with code 3; its last log \
             lines were:\n  a\n  b"
        );
    }
}
