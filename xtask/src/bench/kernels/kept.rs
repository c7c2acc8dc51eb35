//! What earlier calls have measured: a line of JSON for each pair, so that a call that was cut
//! off has lost one pair at most.

use super::sample::Sample;
use crate::shell::target_dir;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Serialize, Deserialize)]
struct Line {
    /// What was measured with: pairs of other programs are left out.
    by: String,
    case: String,
    round: usize,
    pair: [Sample; 2],
}

pub(super) struct Kept {
    path: PathBuf,
    by: String,
    pairs: BTreeMap<(String, usize), [Sample; 2]>,
}

impl Kept {
    /// What was kept of these programs under that name.
    pub(super) fn open(name: &str, by: String, fresh: bool) -> Result<Self> {
        let folder = target_dir().join("bench-kernels");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{name}.jsonl"));
        if fresh && path.exists() {
            fs::remove_file(&path)?;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        // A line that was cut off is measured again.
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let pairs = lines
            .filter(|line| line.by == by)
            .map(|line| ((line.case, line.round), line.pair))
            .collect();
        Ok(Self { path, by, pairs })
    }

    pub(super) fn pair(&self, case: &str, round: usize) -> Option<[Sample; 2]> {
        self.pairs.get(&(case.to_owned(), round)).copied()
    }

    pub(super) fn keep(&mut self, case: &str, round: usize, pair: [Sample; 2]) -> Result<()> {
        let line = Line {
            by: self.by.clone(),
            case: case.to_owned(),
            round,
            pair,
        };
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
        self.pairs.insert((line.case, round), pair);
        Ok(())
    }
}
