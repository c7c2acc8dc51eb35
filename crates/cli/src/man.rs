//! `sextant man`: the manual, a page for each command, from the definitions that `--help` shows.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};

use crate::args;
use crate::outcome::Outcome;
use crate::output::say;

pub(crate) fn command() -> Command {
    Command::new("man")
        .about("Write the manual into a folder, a page for each command")
        .arg(
            Arg::new("folder")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where to, such as ~/.local/share/man/man1; it is made where it is missing"),
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let Some(folder) = matches.get_one::<PathBuf>("folder") else {
        return Ok(());
    };
    let n_pages = write(folder)?;
    let folder = folder.display();
    say(&format!(
        "{n_pages} pages are in {folder}; `man sextant` finds them where it is `man1` of a folder \
         in MANPATH"
    ));
    Ok(())
}

/// Writes all pages and says how many they are.
fn write(folder: &Path) -> anyhow::Result<usize> {
    let told = || format!("the manual cannot be written to `{}`", folder.display());
    std::fs::create_dir_all(folder).with_context(told)?;
    clap_mangen::generate_to(args::command(), folder).with_context(told)?;
    Ok(pages(&args::command(), "").len())
}

/// The names of the pages of a command and all below it.
fn pages(command: &Command, above: &str) -> Vec<String> {
    let name = format!("{above}{}", command.get_name());
    let below = command.get_subcommands().filter(|one| !one.is_hide_set());
    let mut pages: Vec<_> = below
        .flat_map(|one| pages(one, &format!("{name}-")))
        .collect();
    pages.push(name);
    pages
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_flags() {
        let folder = tempfile::tempdir().unwrap();
        let n_pages = write(folder.path()).unwrap();
        let files: BTreeSet<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        let want: BTreeSet<_> = pages(&args::command(), "")
            .into_iter()
            .map(|name| format!("{name}.1"))
            .collect();
        assert_eq!(files, want);
        assert_eq!(files.len(), n_pages);
        for page in ["sextant.1", "sextant-top.1", "sextant-bench-speed.1"] {
            assert!(files.contains(page), "{page}");
        }
        // What is not for people has none.
        assert!(!files.contains("sextant-worker.1"));
        let page = |name: &str| {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            // Hyphens that are not to be broken have a backslash there.
            text.replace("\\-", "-")
        };
        for (name, words) in [
            ("sextant.1", &[".TH", "sextant-serve", "Exit codes"][..]),
            (
                "sextant-serve.1",
                &["--listen", "--force", "SEXTANT_LISTEN"],
            ),
            ("sextant-bench-speed.1", &["--vary", "bench"]),
            ("sextant-logs.1", &["--follow", "--since"]),
        ] {
            let text = page(name);
            for word in words {
                assert!(text.contains(word), "{name} lacks {word}: {text}");
            }
        }
    }
}
