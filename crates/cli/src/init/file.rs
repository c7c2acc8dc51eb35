//! The configuration file that `sextant init` writes. Pure but for what the report holds.

use config::{Kind, Setting, setting};
use stdx::Bytes;

use super::{Report, machine, memory};
use crate::presets;

/// Columns of a comment.
const COLUMNS: usize = 96;

/// Settings that people change first, in the order of the file.
const SHOWN: [&str; 14] = [
    "listen",
    "api_key_file",
    "models_dir",
    "model_memory_max",
    "model_keep_alive_secs",
    "context",
    "slots",
    "threads",
    "kv_type_k",
    "kv_type_v",
    "prompt_cache_disk_max",
    "discovery",
    "otlp_endpoint",
    "log_level",
];

const HEAD: &str = "\
Nothing here is needed: where a line is missing, or a comment as below, the default holds, which \
is found out from the machine at each start. To change a setting, take the `#` away before its \
name. `sextant config` shows every setting, its value and where that comes from; \
`sextant doctor` says what is wrong with them.";

const PRESETS: &str = "\
Models for two purposes, of those that are here, with settings that fit this machine. Requests \
ask for them by these names; each is loaded when it is asked for.";

const NO_PRESETS: &str = "\
A model with settings of its own has a table such as this. Once models are here, \
`sextant presets --toml` prints some that fit this machine.";

const EXAMPLE: &str = "\
# [[models]]
# name = \"daily\"
# model = \"NAME, as `sextant ls` shows it\"
# context = 8192
";

const PROVIDERS: &str = "\
Other engines are providers. `sextant providers discover` finds those that run on this machine, \
and `--add` writes them here.";

pub(super) fn text(report: &Report) -> String {
    let sketch = &report.machine;
    let mut text = comment("Sextant's settings on this machine, as `sextant init` wrote them.");
    text.push_str(&comment(&format!("Machine: {}.", machine(sketch))));
    text.push_str(&comment(&format!("Memory: {}.", memory(sketch))));
    text.push_str("#\n");
    text.push_str(&comment(HEAD));
    for name in SHOWN {
        if let Some(setting) = setting(name) {
            text.push('\n');
            text.push_str(&entry(setting, here(report, name).as_deref()));
        }
    }
    let tables = presets::toml(&report.chosen);
    text.push('\n');
    match tables.is_empty() {
        true => {
            text.push_str(&comment(NO_PRESETS));
            text.push_str(EXAMPLE);
            text.push('\n');
        }
        false => {
            text.push_str(&comment(PRESETS));
            text.push('\n');
            text.push_str(&tables);
        }
    }
    text.push_str(&comment(PROVIDERS));
    text
}

/// What a setting without a value comes to on this machine, where that is known.
fn here(report: &Report, name: &str) -> Option<String> {
    let sketch = &report.machine;
    match name {
        "listen" => Some(report.config.listen.to_string()),
        "threads" => Some(sketch.threads.to_string()),
        "models_dir" => sketch.models_folder.clone(),
        "model_memory_max" => {
            let bytes = sketch.memory_for_models_bytes?;
            Some(format!("{} MiB", bytes / Bytes::MIB))
        }
        _ => None,
    }
}

fn entry(setting: &Setting, here: Option<&str>) -> String {
    let default = match (setting.default, here) {
        (Some(_), _) => String::new(),
        (None, Some(here)) => format!(" Default: {}, here {here}.", setting.unset),
        (None, None) => format!(" Default: {}.", setting.unset),
    };
    let mut text = comment(&format!("{}{default}", setting.doc));
    let value = here.or(setting.default).or_else(|| example(setting));
    let value = value.map(|value| toml_value(setting.kind, value));
    if let Some(value) = value {
        text.push_str(&format!("# {} = {value}\n", setting.name));
    }
    text
}

/// A value for a setting whose default is to have none.
fn example(setting: &Setting) -> Option<&'static str> {
    match setting.kind {
        _ if setting.name.starts_with("kv_type") => Some("q8_0"),
        Kind::Path => Some("/etc/sextant/FILE"),
        Kind::Url => Some("http://127.0.0.1:4318"),
        Kind::Bytes { .. } => Some("4 GiB"),
        Kind::Count { min, .. } if min <= 2 => Some("2"),
        Kind::Count { .. } => Some("8192"),
        Kind::Choice(words) => words.first().copied(),
        _ => None,
    }
}

/// A value as the file has it.
fn toml_value(kind: Kind, value: &str) -> String {
    let is_bare = match kind {
        Kind::Count { .. } | Kind::Bytes { .. } => value.bytes().all(|byte| byte.is_ascii_digit()),
        Kind::Switch => true,
        _ => false,
    };
    match is_bare {
        true => value.to_owned(),
        false => serde_json::Value::from(value).to_string(),
    }
}

/// A text as lines of comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.len() + 1 + word.len() > COLUMNS {
            lines.push_str(&line);
            lines.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    lines.push_str(&line);
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_is_shown_is_one_and_has_a_value() {
        for name in SHOWN {
            let setting = setting(name).unwrap_or_else(|| panic!("no setting {name}"));
            let text = entry(setting, None);
            assert!(text.contains(&format!("\n# {name} = ")), "{text}");
            assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        }
    }

    #[test]
    fn a_value_cannot_leave_its_line() {
        let text = toml_value(Kind::Path, "/a \"b\"\nlisten = 1");
        assert_eq!(text, r#""/a \"b\"\nlisten = 1""#);
        assert_eq!(comment("a\nb = 1"), "# a b = 1\n");
    }
}
