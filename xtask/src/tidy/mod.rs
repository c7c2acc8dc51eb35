//! House rules that neither rustfmt nor clippy knows.
//!
//! [`graph`] looks at crates and their dependencies, [`source`] at the text and
//! the syntax of each Rust file. Every finding is reported before the step fails.

mod graph;
mod source;

use anyhow::{Result, bail};

pub(crate) fn run() -> Result<()> {
    let mut findings = Vec::new();
    let crates = graph::check(&mut findings)?;
    let files = source::check(&mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} faults", findings.len());
    }
    println!("tidy: {crates} crates and {files} Rust files are in order");
    Ok(())
}
