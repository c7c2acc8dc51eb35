//! `sextant pull`: several downloads at once, each with a bar.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use clap::ArgMatches;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use models::Source;
use models::pull::{Options, Progress, Puller};

use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::say;
use crate::progress::{Unit, bar};
use crate::{configuration, models_here, output};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let environment = models_here::environment(&config);
    let specs = matches.get_many::<String>("spec").unwrap_or_default();
    let sources = specs
        .map(|spec| match Source::parse(spec).code(Code::Usage)? {
            Some(source) => Ok(source),
            None => Err(fault(
                Code::Usage,
                format!(
                    "`{spec}` says not where from; write hf:OWNER/REPO, ollama:NAME, pypi:NAME \
                     or an https:// address"
                ),
            )),
        })
        .collect::<Outcome<Vec<_>>>()?;
    let options = Options::from_environment(&environment).code(Code::Download)?;
    let puller = Puller::new(options).code(Code::Download)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = pull_all(&puller, &sources) => outcome,
            _ = tokio::signal::ctrl_c() => {
                say("interrupted; the same command continues the download");
                Err(fault(Code::Interrupted, "interrupted"))
            }
        }
    })
}

async fn pull_all(puller: &Puller, sources: &[Source]) -> Outcome {
    let results = join_all(sources.iter().map(|source| pull_one(puller, source))).await;
    let n_failed = results.iter().filter(|result| result.is_err()).count();
    for (source, result) in sources.iter().zip(results) {
        match result {
            // The path is the data of this command.
            Ok(path) => output::line(&path)?,
            Err(error) => say(&format!("error: {source}: {error}")),
        }
    }
    match n_failed {
        0 => Ok(()),
        n => Err(fault(
            Code::Download,
            format!("{n} of {} downloads failed", sources.len()),
        )),
    }
}

async fn pull_one(puller: &Puller, source: &Source) -> Result<String, models::pull::PullError> {
    say(&format!("pulling {source}"));
    let bars = Bars::default();
    let show = move |progress: Progress| bars.show(&progress);
    let pulled = puller.pull(source, &show).await?;
    Ok(pulled.path.display().to_string())
}

/// One bar a file on a terminal, one line a file elsewhere.
#[derive(Debug, Default)]
struct Bars(Mutex<HashMap<String, Option<ProgressBar>>>);

impl Bars {
    fn show(&self, progress: &Progress) {
        let mut bars = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = bars.entry(progress.file.clone()).or_insert_with(|| {
            if io::stderr().is_terminal() {
                Some(bar(&progress.file, Unit::Bytes))
            } else {
                let size = progress.total.map(|total| format!(" ({total})"));
                say(&format!("{}{}", progress.file, size.unwrap_or_default()));
                None
            }
        });
        if let Some(bar) = shown {
            if let Some(total) = progress.total {
                bar.set_length(total.0);
            }
            bar.set_position(progress.done.0);
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        let bars = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for bar in bars.values().flatten() {
            bar.finish_and_clear();
        }
    }
}
