//! Reference documents that come from code, so that they cannot drift from it.

use crate::shell::root;
use anyhow::{Result, bail};
use std::fs;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Changes nothing; fails when a file is not up to date.
    #[arg(long)]
    pub(crate) check: bool,
}

struct Document {
    path: &'static str,
    text: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut stale = Vec::new();
    for document in documents() {
        let path = root().join(document.path);
        if fs::read_to_string(&path).is_ok_and(|found| found == document.text) {
            continue;
        }
        stale.push(document.path);
        if !arguments.check {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, &document.text)?;
            println!("written: {}", document.path);
        }
    }
    if arguments.check && !stale.is_empty() {
        bail!(
            "not up to date: {}; run 'cargo xtask codegen' and commit the result",
            stale.join(", ")
        );
    }
    Ok(())
}

fn documents() -> Vec<Document> {
    Vec::new()
}
