//! What can be known of an RKLLM file without Rockchip's runtime, and what the runtime says.
//!
//! A file tells its facts in its own strings where those are plain, and its name often has
//! the platform in it. Newer files mask their strings: then only the line that the runtime
//! logs while loading tells, which [`RkllmFacts::of_text`] reads too.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of the beginning of a file that are searched.
const HEAD_BYTES_MAX: u64 = 1 << 20;

/// The chips that RKLLM makes files for.
pub const PLATFORMS: &[&str] = &["rk3588", "rk3576", "rk3562", "rv1126b"];

/// What is known of a file; nothing is guessed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RkllmFacts {
    /// One of [`PLATFORMS`].
    pub platform: Option<&'static str>,
    /// The longest context it was converted for, tokens.
    pub context_max: Option<u64>,
    pub npu_cores: Option<u64>,
}

impl RkllmFacts {
    /// Reads the beginning of the file, and its name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut head = Vec::new();
        File::open(path)?
            .take(HEAD_BYTES_MAX)
            .read_to_end(&mut head)?;
        let mut facts = Self::of_text(&String::from_utf8_lossy(&head));
        if facts.platform.is_none() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            facts.platform = platform(&name);
        }
        Ok(facts)
    }

    /// What a text says: `max_context_limit: 4096, npu_core_num: 3, target_platform: RK3588`.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self {
            platform: value(text, "target_platform").and_then(platform),
            context_max: value(text, "max_context_limit").and_then(number),
            npu_cores: value(text, "npu_core_num").and_then(number),
        }
    }
}

/// What stands behind a name, without what separates the two.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = text.split_once(name)?;
    let behind = behind.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let end = behind.find(|c: char| !c.is_ascii_alphanumeric());
    behind.get(..end.unwrap_or(behind.len()))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// The platform that a text has in it, if it is one only.
fn platform(text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    let mut named = PLATFORMS.iter().filter(|name| text.contains(**name));
    let first = named.next().copied();
    first.filter(|_| named.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_from_strings_logs_and_names() {
        let line = "I rkllm: rkllm-toolkit version: 1.2.1b1, max_context_limit: 4096, \
                    npu_core_num: 3, target_platform: RK3588, model_dtype: W8A8";
        let facts = RkllmFacts {
            platform: Some("rk3588"),
            context_max: Some(4096),
            npu_cores: Some(3),
        };
        assert_eq!(RkllmFacts::of_text(line), facts);
        let binary = "\0\0target_platform\0\u{6}\0RK3576\0max_context_limit=x";
        assert_eq!(RkllmFacts::of_text(binary).platform, Some("rk3576"));
        assert_eq!(RkllmFacts::of_text(binary).context_max, None);
        assert_eq!(RkllmFacts::of_text("rk3588"), RkllmFacts::default());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Qwen3-1.7B-RK3576-w4a16.rkllm");
        std::fs::write(&path, [0xda, 0xee, 0xb3, 0x36]).unwrap();
        assert_eq!(RkllmFacts::read(&path).unwrap().platform, Some("rk3576"));
        let both = folder.path().join("rk3588-and-rk3576.rkllm");
        std::fs::write(&both, "rkllm").unwrap();
        assert_eq!(RkllmFacts::read(&both).unwrap(), RkllmFacts::default());
    }
}
