//! The table of memory limits, what it proves, and the two files it is written to.

use super::{Case, Fate, Run, USABLE_SHARE};
use crate::shell::root;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;

/// One case and what became of both servers.
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) ours: Run,
    pub(super) theirs: Option<Run>,
    /// How fast llama-server decodes without a limit.
    pub(super) peer_free_tokens_per_s: Option<f64>,
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) facts: Vec<(&'static str, String)>,
}

/// What a refused load is with llama-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Killed,
    /// It lives, at less than a tenth of its speed.
    Pages,
    /// Its request or its start failed.
    Fails,
    /// It lives and is usable: the refusal was too strict.
    Usable,
}

impl Row {
    fn verdict(&self) -> Option<Verdict> {
        let theirs = self.theirs.as_ref()?;
        Some(match &theirs.fate {
            Fate::Killed(_) => Verdict::Killed,
            Fate::Failed(_) | Fate::Refused(_) => Verdict::Fails,
            Fate::Survived(filled) => {
                let is_slow = self
                    .peer_free_tokens_per_s
                    .is_some_and(|free| filled.decode_tokens_per_s < USABLE_SHARE * free);
                if is_slow {
                    Verdict::Pages
                } else {
                    Verdict::Usable
                }
            }
        })
    }

    fn is_refused(&self) -> bool {
        matches!(self.ours.fate, Fate::Refused(_))
    }
}

/// What became of a server, in words.
pub(super) fn fate(run: &Run, free_tokens_per_s: Option<f64>) -> String {
    let peak = run.peak_bytes >> 20;
    match &run.fate {
        Fate::Refused(why) => format!("refused: {}", needed(why)),
        Fate::Killed(when) => format!("killed {when}"),
        Fate::Failed(why) => {
            let last = why.lines().last().unwrap_or_default();
            format!("failed: {}", last.replace('|', "\\|"))
        }
        Fate::Survived(filled) => {
            let speed = filled.decode_tokens_per_s;
            let how = match free_tokens_per_s {
                Some(free) if speed < USABLE_SHARE * free => "survives by paging",
                _ => "survives",
            };
            let free = free_tokens_per_s
                .map_or_else(String::new, |free| format!(" of {free:.0} without a limit"));
            format!(
                "{how}: {} answers, {} tokens in {:.0} s, then {speed:.1} t/s{free}, peak {peak} MiB",
                filled.answers, filled.prompt_tokens, filled.seconds
            )
        }
    }
}

/// Of a refusal's sentence what it takes and what there is.
fn needed(why: &str) -> String {
    let from = why.find("takes about").unwrap_or(0);
    let text = why.get(from..).unwrap_or(why);
    let text = text.split(", raise").next().unwrap_or(text);
    text.to_owned()
}

impl Report {
    pub(super) fn table(&self) -> String {
        let mut text = String::from(
            "| limit | model | context | slots | Sextant | its OOM kills | llama-server, where \
             Sextant refuses |\n|---:|---|---:|---:|---|---:|---|\n",
        );
        for row in &self.rows {
            let theirs = match &row.theirs {
                Some(run) => fate(run, row.peer_free_tokens_per_s),
                None => String::new(),
            };
            let Case {
                limit_mib,
                which,
                context,
                slots,
            } = row.case;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {limit_mib} MiB | {} | {context} | {slots} | {} | {} | {theirs} |",
                which.name(),
                fate(&row.ours, None),
                row.ours.kills,
            );
        }
        text
    }

    fn summary(&self) -> String {
        let admitted = self.rows.iter().filter(|row| !row.is_refused());
        let kills: u64 = self.rows.iter().map(|row| row.ours.kills).sum();
        let count = |wanted: Verdict| {
            let refused = self.rows.iter().filter(|row| row.is_refused());
            refused.filter(|row| row.verdict() == Some(wanted)).count()
        };
        format!(
            "{} loads were admitted, with {kills} OOM kills. Of {} refused ones llama-server was \
             killed in {}, survived\nonly by paging its file in {}, failed otherwise in {}, and was \
             usable in {}.",
            admitted.count(),
            self.rows.iter().filter(|row| row.is_refused()).count(),
            count(Verdict::Killed),
            count(Verdict::Pages),
            count(Verdict::Fails),
            count(Verdict::Usable),
        )
    }

    pub(super) fn write(&self) -> Result<()> {
        let mut text = format!(
            "# Memory limits\n\n\
             Written by `cargo xtask memory-check`. Each line is a control group without swap. \
             Sextant decides by its\nplan whether it loads. What it admits is filled: a prompt on \
             each slot at once, together the whole\ncontext, then one prompt that fills it alone; \
             every answer is checked. What it refuses is given to\nllama-server with the same \
             context and slots and otherwise default flags, a prompt on each slot. A\nserver that \
             decodes at less than a tenth of its speed without a limit survives by paging. Peaks \
             include\nfile cache, which the kernel takes back.\n\n{}\n\n{}\n| fact | value \
             |\n|---|---|\n",
            self.summary(),
            self.table()
        );
        for (name, value) in &self.facts {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        let folder = root().join("docs/benchmarks");
        fs::write(folder.join("memory-limits.md"), text)?;
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let rows: Vec<Value> = self.rows.iter().map(json_row).collect();
        let all = json!({ "facts": facts, "rows": rows });
        let path = folder.join("memory-limits.json");
        fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;
        eprintln!("wrote {}", path.with_extension("md").display());
        Ok(())
    }

    /// What must hold: nobody of ours is killed, and who is admitted answers everything.
    pub(super) fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for row in &self.rows {
            let is_well = matches!(row.ours.fate, Fate::Survived(_) | Fate::Refused(_));
            if row.ours.kills > 0 || !is_well {
                wrong.push(format!("{}: {}", row.case.line(), fate(&row.ours, None)));
            }
        }
        if !wrong.is_empty() {
            bail!(
                "loads were admitted and did not survive:\n{}",
                wrong.join("\n")
            );
        }
        Ok(())
    }
}

fn json_row(row: &Row) -> Value {
    let run = |run: &Run, free: Option<f64>| {
        let (fate_word, filled) = match &run.fate {
            Fate::Refused(_) => ("refused", None),
            Fate::Killed(_) => ("killed", None),
            Fate::Failed(_) => ("failed", None),
            Fate::Survived(filled) => ("survived", Some(filled)),
        };
        json!({
            "fate": fate_word,
            "said": fate(run, free),
            "oom_kills": run.kills,
            "peak_bytes": run.peak_bytes,
            "answers": filled.map(|filled| filled.answers),
            "prompt_tokens": filled.map(|filled| filled.prompt_tokens),
            "fill_seconds": filled.map(|filled| filled.seconds),
            "decode_tokens_per_s": filled.map(|filled| filled.decode_tokens_per_s),
            "decode_tokens_per_s_without_limit": free,
        })
    };
    json!({
        "limit_bytes": row.case.limit_mib << 20,
        "model": row.case.which.name(),
        "context": row.case.context,
        "slots": row.case.slots,
        "sextant": run(&row.ours, None),
        "llama_server": row.theirs.as_ref().map(|theirs| run(theirs, row.peer_free_tokens_per_s)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Which;
    use super::super::fill::Filled;
    use super::*;

    fn row(theirs: Fate, free: Option<f64>) -> Row {
        let run = |fate| Run {
            fate,
            kills: 0,
            peak_bytes: 0,
        };
        let refusal = "x takes about 3 GiB, and models may take 2 GiB; y, raise `z`, or w";
        Row {
            case: Case {
                limit_mib: 512,
                which: Which::Smol,
                context: 1,
                slots: 1,
            },
            ours: run(Fate::Refused(refusal.to_owned())),
            theirs: Some(run(theirs)),
            peer_free_tokens_per_s: free,
        }
    }

    #[test]
    fn a_refused_load_is_told_by_what_becomes_of_it() {
        let alive = |decode_tokens_per_s| {
            Fate::Survived(Filled {
                answers: 1,
                prompt_tokens: 1,
                seconds: 1.0,
                decode_tokens_per_s,
            })
        };
        let cases = [
            (Fate::Killed("while it loaded"), None, Verdict::Killed),
            (Fate::Failed(String::new()), Some(90.0), Verdict::Fails),
            (alive(8.9), Some(90.0), Verdict::Pages),
            (alive(9.1), Some(90.0), Verdict::Usable),
        ];
        for (fate, free, verdict) in cases {
            assert_eq!(row(fate, free).verdict(), Some(verdict));
        }
        let ours = row(alive(1.0), None).ours;
        let said = "refused: takes about 3 GiB, and models may take 2 GiB; y";
        assert_eq!(fate(&ours, None), said);
    }
}
