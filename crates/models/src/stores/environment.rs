//! What the machine looks like, as data: so that every platform's layout can be
//! built in a folder and tested on any other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The layouts stores differ by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    Linux,
    /// Linux inside Windows: the Windows users' stores are reachable too.
    Wsl,
    MacOs,
    Windows,
}

/// Variables, home and root of the machine whose stores are looked at.
#[derive(Debug, Clone)]
pub struct Environment {
    pub vars: BTreeMap<String, String>,
    pub home: Option<PathBuf>,
    pub platform: Platform,
    /// What stands for `/` in paths that are not below home. Only tests change it.
    pub root: PathBuf,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn from_process() -> Self {
        let vars: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let platform = if cfg!(windows) {
            Platform::Windows
        } else if cfg!(target_os = "macos") {
            Platform::MacOs
        } else if vars.contains_key("WSL_DISTRO_NAME") {
            Platform::Wsl
        } else {
            Platform::Linux
        };
        Self {
            vars,
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            platform,
            root: PathBuf::from("/"),
        }
    }

    /// An environment with nothing but a home, for tests and tools.
    #[must_use]
    pub fn bare(platform: Platform, home: impl Into<PathBuf>) -> Self {
        Self {
            vars: BTreeMap::new(),
            home: Some(home.into()),
            platform,
            root: PathBuf::from("/"),
        }
    }

    /// The same with one variable set.
    #[must_use]
    pub fn with_var(mut self, name: &str, value: impl Into<String>) -> Self {
        self.vars.insert(name.to_owned(), value.into());
        self
    }

    /// The same with another folder for `/`.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// A variable that is set and not empty.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that names a folder; a leading `~/` means home.
    #[must_use]
    pub fn var_path(&self, name: &str) -> Option<PathBuf> {
        let value = self.var(name)?;
        match value.strip_prefix("~/") {
            Some(below_home) => self.below_home(below_home),
            None => Some(PathBuf::from(value)),
        }
    }

    /// A path below home.
    #[must_use]
    pub fn below_home(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        Some(self.home.as_ref()?.join(path))
    }

    /// A path from the root of the file system.
    #[must_use]
    pub fn absolute(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Where programs keep caches for this user.
    #[must_use]
    pub fn cache_dir(&self) -> Option<PathBuf> {
        match self.platform {
            Platform::MacOs => self.below_home("Library/Caches"),
            Platform::Windows => self.local_app_data(),
            Platform::Linux | Platform::Wsl => self
                .var_path("XDG_CACHE_HOME")
                .or_else(|| self.below_home(".cache")),
        }
    }

    /// Where programs keep data for this user.
    #[must_use]
    pub fn data_dir(&self) -> Option<PathBuf> {
        match self.platform {
            Platform::MacOs => self.below_home("Library/Application Support"),
            Platform::Windows => self.local_app_data(),
            Platform::Linux | Platform::Wsl => self
                .var_path("XDG_DATA_HOME")
                .or_else(|| self.below_home(".local/share")),
        }
    }

    /// The root of our own store: `SEXTANT_MODELS`, or `sextant/models` in the
    /// data folder. `None` when there is neither a variable nor a home.
    #[must_use]
    pub fn own_store(&self) -> Option<PathBuf> {
        self.var_path("SEXTANT_MODELS")
            .or_else(|| Some(self.data_dir()?.join("sextant/models")))
    }

    fn local_app_data(&self) -> Option<PathBuf> {
        self.var_path("LOCALAPPDATA")
            .or_else(|| self.below_home("AppData/Local"))
    }

    /// The hub cache of the Hugging Face libraries.
    #[must_use]
    pub fn hugging_face_hub(&self) -> Option<PathBuf> {
        self.var_path("HF_HUB_CACHE")
            .or_else(|| self.var_path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(self.hugging_face_home()?.join("hub")))
    }

    /// The folder of the Hugging Face libraries; the token lies there too. They
    /// use `~/.cache` on every platform.
    #[must_use]
    pub fn hugging_face_home(&self) -> Option<PathBuf> {
        self.var_path("HF_HOME").or_else(|| {
            let cache = self
                .var_path("XDG_CACHE_HOME")
                .or_else(|| self.below_home(".cache"));
            Some(cache?.join("huggingface"))
        })
    }
}
