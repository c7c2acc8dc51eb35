//! The reference page of all settings.

use std::fmt::Write as _;

use crate::{Group, Kind, SETTINGS, Setting};

const HEAD: &str = "\
# Settings

<!-- Generated from the settings table; do not edit. -->

Every setting has one name and can be given in three places. A flag of `sextant serve`
wins over the environment, the environment over the configuration file:

| place | how `queue_max` is written there |
|---|---|
| flag | `--queue-max 8` |
| environment | `SEXTANT_QUEUE_MAX=8` |
| file | `queue_max = 8` |

The file is the one given by `--config` or `SEXTANT_CONFIG`; without them it is
`$XDG_CONFIG_HOME/sextant/config.toml` (`~/.config/sextant/config.toml`), where that
exists. Keys it should not have are errors. `sextant config` shows the values in force
and where each of them comes from.
";

/// The text of `docs/reference/settings.md`.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = HEAD.to_owned();
    for group in Group::ALL {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "\n## {}", group.title());
        for setting in SETTINGS.iter().filter(|setting| setting.group == *group) {
            entry(&mut page, setting);
        }
    }
    page
}

fn entry(page: &mut String, setting: &Setting) {
    let flag = match setting.kind {
        Kind::Arguments => "`MODEL...` (arguments)".to_owned(),
        Kind::Switch => format!("`--{0}`, `--{0}=false`", setting.flag()),
        _ => format!("`--{}`", setting.flag()),
    };
    let default = match setting.default {
        Some(default) => format!("`{default}`"),
        None => setting.unset.to_owned(),
    };
    let unit = setting.unit.map(|unit| format!(" ({unit})"));
    let _ = write!(
        page,
        "\n### `{}`\n\n{}\n\n- value: {}{}\n- default: {default}\n- flag: {flag}\n\
         - environment: `{}`\n- since: {}\n",
        setting.name,
        setting.doc,
        setting.kind.allowed(),
        unit.unwrap_or_default(),
        setting.env(),
        setting.since,
    );
}
