//! What our kernels change of what a model says: `cargo xtask quality`.
//!
//! `llama-perplexity` of one stock build writes down its probabilities for a text, and the
//! other builds and our plugin are compared with them. How far llama.cpp's builds are from
//! one another is what rounding does; ours must not be further. Writes
//! `docs/benchmarks/quality.md`.

use crate::bench::machine;
use crate::models::{self, GEMMA3, SMOLLM2, TestModel};
use crate::peer::BUILD;
use crate::shell::{self, program, root, target_dir};
use crate::stock::{self, Instructions, Stock};
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// English of some length that each Debian has.
const TEXT: &str = "/usr/share/common-licenses/GPL-3";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The text to compare over.
    #[arg(long, default_value = TEXT)]
    text: PathBuf,
    /// Pieces of 512 tokens, of each of which the second half counts.
    #[arg(long, default_value_t = 12)]
    chunks: u32,
    #[arg(long, default_value_t = 2)]
    threads: u32,
}

/// Who computes.
struct Variant {
    name: &'static str,
    /// It is one of llama.cpp's own.
    is_stock: bool,
    instructions: Instructions,
    plugin: Option<&'static str>,
    flags: &'static [&'static str],
}

const VARIANTS: [Variant; 5] = [
    Variant {
        name: "llama.cpp, weights not packed",
        is_stock: true,
        instructions: Instructions::Machine,
        plugin: None,
        flags: &["--no-repack"],
    },
    Variant {
        name: "llama.cpp, AVX2",
        is_stock: true,
        instructions: Instructions::Avx2,
        plugin: None,
        flags: &[],
    },
    Variant {
        name: "llama.cpp, no flash attention",
        is_stock: true,
        instructions: Instructions::Machine,
        plugin: None,
        flags: &["-fa", "off"],
    },
    Variant {
        name: "Sextant, the machine's best",
        is_stock: false,
        instructions: Instructions::Machine,
        plugin: Some(""),
        flags: &[],
    },
    Variant {
        name: "Sextant, AVX2",
        is_stock: false,
        instructions: Instructions::Machine,
        plugin: Some("avx2"),
        flags: &[],
    },
];

/// How far one is from the base.
#[derive(Debug, Clone, Copy, Default)]
struct Distance {
    perplexity_ratio: f64,
    mean: f64,
    /// Of the mean: what another text of this length would change.
    error: f64,
    p99: f64,
    most: f64,
    /// Tokens of which both think the same most likely, percent.
    agreement: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.text.is_file(),
        "there is no {}; name a text with `--text`",
        arguments.text.display()
    );
    let plugin = stock::plugin()?;
    let mut text = String::from(
        "# What our kernels change\n\n\
         Written by `cargo xtask quality`. The base is `llama-perplexity` of a stock build with \
         all of this\nmachine's instructions; each row is compared with its probabilities, over \
         the same text. KLD is the\nKullback-Leibler divergence from the base, in nats, with \
         the standard error of its mean.\n",
    );
    let mut worse = Vec::new();
    for model in [&SMOLLM2, &GEMMA3] {
        let rows = compare(arguments, model, &plugin)?;
        let _ = write!(
            text,
            "\n## {}\n\n| who | perplexity to the base's | mean KLD | 99 % | most | same first \
             token |\n|---|---:|---:|---:|---:|---:|\n",
            model.file.trim_end_matches(".gguf")
        );
        for (variant, row) in &rows {
            let _ = writeln!(
                text,
                "| {} | {:.4} | {:.5} ± {:.5} | {:.4} | {:.3} | {:.2} % |",
                variant.name,
                row.perplexity_ratio,
                row.mean,
                row.error,
                row.p99,
                row.most,
                row.agreement
            );
        }
        let (stock, ours): (Vec<_>, Vec<_>) =
            rows.iter().partition(|(variant, _)| variant.is_stock);
        let most = stock.iter().map(|(_, row)| row.mean).fold(0.0, f64::max);
        if ours
            .iter()
            .any(|(_, row)| row.mean - 2.0 * row.error > most)
        {
            worse.push(model.file);
        }
    }
    let _ = write!(
        text,
        "\n| fact | value |\n|---|---|\n| CPU | {} |\n| llama.cpp | {BUILD} |\n| text | {}, {} \
         pieces of 512 tokens |\n",
        machine::cpu(),
        arguments.text.display(),
        arguments.chunks
    );
    println!("{text}");
    fs::write(root().join("docs/benchmarks/quality.md"), &text)?;
    ensure!(
        worse.is_empty(),
        "further from the base than llama.cpp's own builds: {}",
        worse.join(", ")
    );
    Ok(())
}

fn compare(
    arguments: &Arguments,
    model: &TestModel,
    plugin: &Path,
) -> Result<Vec<(&'static Variant, Distance)>> {
    let path = models::ensure(model)?;
    let folder = target_dir().join("quality");
    fs::create_dir_all(&folder)?;
    let base = folder.join(format!("{}.probabilities", model.file));
    shell::output(
        command(arguments, Instructions::Machine, &path)?
            .arg("--save-all-logits")
            .arg(&base),
    )?;
    let mut rows = Vec::new();
    for variant in &VARIANTS {
        let mut command = command(arguments, variant.instructions, &path)?;
        command
            .arg("--kl-divergence")
            .arg("--kl-divergence-base")
            .arg(&base);
        command.args(variant.flags);
        if let Some(isa) = variant.plugin {
            command.env("GGML_BACKEND_PATH", plugin);
            if !isa.is_empty() {
                command.env("GGML_SEXTANT_ISA", isa);
            }
        }
        let printed = shell::output(&mut command)?;
        let distance = read(&printed).with_context(|| format!("{}: {printed}", variant.name))?;
        eprintln!("{}: {}: {distance:?}", model.file, variant.name);
        rows.push((variant, distance));
    }
    fs::remove_file(&base)?;
    Ok(rows)
}

fn command(arguments: &Arguments, instructions: Instructions, model: &Path) -> Result<Command> {
    let mut command = program(
        Stock::ensure(instructions)?.path("llama-perplexity"),
        &["-m"],
    );
    command.arg(model).arg("-f").arg(&arguments.text);
    command.args(["-c", "512", "--chunks", &arguments.chunks.to_string()]);
    command.args(["-t", &arguments.threads.to_string()]);
    Ok(command)
}

fn read(printed: &str) -> Option<Distance> {
    Some(Distance {
        perplexity_ratio: figure(printed, "Mean PPL(Q)/PPL(base)")?,
        mean: figure(printed, "Mean    KLD")?,
        error: figure_at(printed, "Mean    KLD", 2)?,
        p99: figure(printed, "99.0%   KLD")?,
        most: figure(printed, "Maximum KLD")?,
        agreement: figure(printed, "Same top p")?,
    })
}

/// The first number of the line that begins so.
fn figure(printed: &str, label: &str) -> Option<f64> {
    figure_at(printed, label, 0)
}

/// The word at that place behind the colon.
fn figure_at(printed: &str, label: &str, at: usize) -> Option<f64> {
    let mut lines = printed.lines();
    let rest = lines.find_map(|line| line.trim_start().strip_prefix(label))?;
    let value = rest.split(':').nth(1)?.split_whitespace().nth(at)?;
    value.trim_end_matches('%').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_out_of_the_report() {
        let printed = "Mean PPL(Q)/PPL(base)          :   1.000123 ±   0.000456\n\
                       Mean    KLD:   0.000321 ±   0.000007\nMaximum KLD:   0.012345\n\
                       99.0%   KLD:   0.002345\nSame top p: 99.412 ± 0.171 %\n";
        let distance = read(printed).unwrap();
        assert!((distance.agreement - 99.412).abs() < 1e-9);
        assert!((distance.error - 0.000_007).abs() < 1e-12);
        assert!((distance.most - 0.012_345).abs() < 1e-9);
        assert!(read("Mean    KLD: 1").is_none());
    }
}
