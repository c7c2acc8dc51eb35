//! The workbench's files, as far as somebody has built them.
//!
//! `make build` builds `ui/` with node and this crate embeds what is in `ui/dist`. Without that
//! there is one plain page, which says how to build it: a `cargo build` needs neither node nor a
//! network.

/// A file of the workbench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Without a slash at the beginning, such as `assets/index-Bx3.js`.
    pub path: &'static str,
    pub media_type: &'static str,
    /// Of its contents; without quotes.
    pub etag: &'static str,
    pub plain: &'static [u8],
    pub gzip: Option<&'static [u8]>,
    pub brotli: Option<&'static [u8]>,
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// What there is where nobody has built the workbench.
static FALLBACK: Asset = Asset {
    path: INDEX,
    media_type: "text/html; charset=utf-8",
    etag: "fallback-1",
    plain: include_bytes!("fallback.html"),
    gzip: None,
    brotli: None,
};

const INDEX: &str = "index.html";

/// Whether the workbench is in this build.
#[must_use]
pub fn is_embedded() -> bool {
    asset(INDEX).is_some()
}

/// The workbench's page, or the one that says how to build it.
#[must_use]
pub fn page() -> &'static Asset {
    asset(INDEX).unwrap_or(&FALLBACK)
}

/// The file of that path.
#[must_use]
pub fn asset(path: &str) -> Option<&'static Asset> {
    let found = ASSETS.binary_search_by(|asset| asset.path.cmp(path));
    found.ok().and_then(|index| ASSETS.get(index))
}

/// All files, by their paths.
#[must_use]
pub fn assets() -> &'static [Asset] {
    ASSETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_in_any_build() {
        let page = String::from_utf8(page().plain.to_vec()).unwrap();
        assert!(page.starts_with("<!doctype html>"), "{page}");
        assert_eq!(asset("../Cargo.toml"), None);
        assert_eq!(asset(""), None);
        // What is in the table is found in it.
        for one in assets() {
            assert_eq!(asset(one.path), Some(one));
        }
    }

    #[test]
    fn no_page_has_a_script_or_a_style_of_its_own() {
        let pages = [page(), &FALLBACK];
        for page in pages {
            let text = std::str::from_utf8(page.plain).unwrap();
            for (at, _) in text.match_indices("<script") {
                let tag = text[at..].split('>').next().unwrap();
                assert!(tag.contains("src="), "{tag}");
            }
            assert!(!text.contains("<style") && !text.contains("style="));
            for foreign in ["http://", "https://"] {
                assert!(!text.contains(foreign), "{foreign}");
            }
        }
    }
}
