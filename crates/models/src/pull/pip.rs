//! Which package index pip would use.

use std::fs;
use std::path::PathBuf;

use reqwest::Url;

use super::{PullError, root_url};
use crate::stores::{Environment, Platform};

const DEFAULT_INDEX: &str = "https://pypi.org/simple/";
/// Sections that may set the index for downloads, the most specific first.
const SECTIONS: [&str; 3] = ["download", "install", "global"];

/// The index from `PIP_INDEX_URL`, from the first of pip's configuration files
/// that names one (most specific first), or PyPI.
pub(super) fn index(environment: &Environment) -> Result<Url, PullError> {
    let from_file = || {
        config_files(environment)
            .into_iter()
            .find_map(|path| index_url(&fs::read_to_string(path).ok()?))
    };
    let text = environment
        .var("PIP_INDEX_URL")
        .map(str::to_owned)
        .or_else(from_file)
        .unwrap_or_else(|| DEFAULT_INDEX.to_owned());
    root_url(text.trim()).ok_or_else(|| PullError::Protocol {
        url: "pip's index-url".to_owned(),
        problem: "it must be an https:// address (http:// for this machine only)".to_owned(),
    })
}

/// pip's configuration files, the one that wins first.
fn config_files(environment: &Environment) -> Vec<PathBuf> {
    let named = environment.var_path("PIP_CONFIG_FILE");
    // pip reads nothing at all when the variable names the null device.
    if named
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "/dev/null")
    {
        return Vec::new();
    }
    let file = match environment.platform {
        Platform::Windows => "pip.ini",
        _ => "pip.conf",
    };
    let config_home = environment
        .var_path("XDG_CONFIG_HOME")
        .or_else(|| environment.below_home(".config"));
    let mut files = vec![
        named,
        environment
            .var_path("VIRTUAL_ENV")
            .map(|path| path.join(file)),
    ];
    match environment.platform {
        Platform::Windows => {
            files.push(
                environment
                    .var_path("APPDATA")
                    .map(|path| path.join("pip/pip.ini")),
            );
            files.push(environment.below_home("pip/pip.ini"));
            files.push(
                environment
                    .var_path("PROGRAMDATA")
                    .map(|path| path.join("pip/pip.ini")),
            );
        }
        Platform::MacOs => {
            files.push(environment.below_home("Library/Application Support/pip/pip.conf"));
            files.push(config_home.map(|path| path.join("pip/pip.conf")));
            files.push(environment.below_home(".pip/pip.conf"));
            files.push(Some(
                environment.absolute("/Library/Application Support/pip/pip.conf"),
            ));
        }
        Platform::Linux | Platform::Wsl => {
            files.push(config_home.map(|path| path.join("pip/pip.conf")));
            files.push(environment.below_home(".pip/pip.conf"));
            files.push(Some(environment.absolute("/etc/pip.conf")));
            files.push(Some(environment.absolute("/etc/xdg/pip/pip.conf")));
        }
    }
    files.into_iter().flatten().collect()
}

/// The `index-url` of a configuration file.
fn index_url(text: &str) -> Option<String> {
    let mut section = "";
    let mut found: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name.trim();
            continue;
        }
        let Some((key, value)) = line.split_once(['=', ':']) else {
            continue;
        };
        let rank = SECTIONS.iter().position(|known| *known == section);
        let is_index = key.trim().replace('_', "-") == "index-url";
        if let Some(rank) = rank.filter(|_| is_index) {
            found.push((rank, value.trim()));
        }
    }
    let (_, url) = found.into_iter().min_by_key(|(rank, _)| *rank)?;
    (!url.is_empty()).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::index;
    use crate::stores::{Environment, Platform};

    #[test]
    fn the_index_is_the_one_pip_would_use() {
        let folder = tempfile::tempdir().unwrap();
        let bare =
            Environment::bare(Platform::Linux, folder.path().join("home")).with_root(folder.path());
        assert_eq!(index(&bare).unwrap().as_str(), "https://pypi.org/simple/");

        fs::create_dir_all(folder.path().join("etc")).unwrap();
        fs::write(
            folder.path().join("etc/pip.conf"),
            "[global]\nindex-url = https://etc.example/simple\n",
        )
        .unwrap();
        assert_eq!(
            index(&bare).unwrap().as_str(),
            "https://etc.example/simple/"
        );

        let user = folder.path().join("home/.config/pip");
        fs::create_dir_all(&user).unwrap();
        fs::write(
            user.join("pip.conf"),
            "# ours\n[global]\nindex-url = https://user.example/simple/\ntimeout = 60\n\
             [install]\nindex_url = https://install.example/s\n[other]\nindex-url = https://no.example\n",
        )
        .unwrap();
        assert_eq!(index(&bare).unwrap().as_str(), "https://install.example/s/");

        let with_var = bare
            .clone()
            .with_var("PIP_INDEX_URL", "https://me:pw@var.example/simple/");
        assert_eq!(index(&with_var).unwrap().host_str(), Some("var.example"));
        let none = bare.with_var("PIP_CONFIG_FILE", "/dev/null");
        assert_eq!(index(&none).unwrap().as_str(), "https://pypi.org/simple/");
        let plain = none.with_var("PIP_INDEX_URL", "http://other.example/simple");
        assert!(index(&plain).is_err());
    }
}
