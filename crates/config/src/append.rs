//! Providers that are added to the text of a configuration file. Pure.

use crate::fleet::FleetTables;

/// A `[[providers]]` table to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewProvider {
    /// What it is, for the comment above it; one line.
    pub comment: String,
    pub name: String,
    pub kind: String,
    pub url: String,
}

impl NewProvider {
    /// The table as it stands in the file.
    #[must_use]
    pub fn toml(&self) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let (name, kind, url) = (text(&self.name), text(&self.kind), text(&self.url));
        let comment: String = self.comment.chars().filter(|c| !c.is_control()).collect();
        format!("# {comment}\n[[providers]]\nname = {name}\nkind = {kind}\nurl = {url}\n")
    }
}

/// The text of a configuration file with these providers at its end. What was there stays as
/// it is, byte for byte.
///
/// # Errors
/// In words: a name or an address that is there already, or a file that is not as it should be.
pub fn with_providers(text: &str, new: &[NewProvider]) -> Result<String, String> {
    let read = |text: &str| {
        let tables = toml::from_str::<FleetTables>(text);
        // Not the value, which may be a secret.
        tables.map_err(|_| "it cannot be read; `sextant config` says what is wrong".to_owned())
    };
    let mut known = read(text)?.providers;
    for one in new {
        let plain = |url: &str| url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let has_url = |url: &Option<String>| url.as_deref().map(plain) == Some(plain(&one.url));
        if known.iter().any(|table| table.name == one.name) {
            let name = &one.name;
            return Err(format!(
                "it has a provider `{name}` already; rename that one"
            ));
        }
        if let Some(table) = known.iter().find(|table| has_url(&table.url)) {
            let (name, url) = (&table.name, &one.url);
            return Err(format!("its provider `{name}` is at {url} already"));
        }
        known.extend(read(&one.toml())?.providers);
    }
    let mut whole = text.to_owned();
    for one in new {
        if !whole.is_empty() {
            whole.push_str(if whole.ends_with('\n') { "\n" } else { "\n\n" });
        }
        whole.push_str(&one.toml());
    }
    // A list that is written `providers = [...]` cannot be gone on with below it.
    match read(&whole).is_ok_and(|tables| tables.providers.len() == known.len()) {
        true => Ok(whole),
        false => Err(
            "its providers stand in a list that cannot be added to; write them as \
                      `[[providers]]` tables"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ollama() -> NewProvider {
        NewProvider {
            comment: "Ollama 0.9.0, found\nhere".into(),
            name: "ollama".into(),
            kind: "ollama".into(),
            url: "http://127.0.0.1:11434".into(),
        }
    }

    #[test]
    fn tables_are_put_below_what_is_there() {
        let table = "# Ollama 0.9.0, foundhere\n[[providers]]\nname = \"ollama\"\n\
                     kind = \"ollama\"\nurl = \"http://127.0.0.1:11434\"\n";
        let rest = "port = 7 # mine\r\n\n[routing]\nauto = [ 'x:' ]\n\n[[providers]]\nname='x'\n\
                    kind='openai'\nurl='http://x'";
        for (before, between) in [("", ""), ("port = 7\n", "\n"), (rest, "\n\n")] {
            let after = with_providers(before, &[ollama()]).unwrap();
            assert_eq!(after, format!("{before}{between}{table}"));
        }
    }

    #[test]
    fn what_is_there_already_is_refused_and_so_is_what_cannot_be_added_to() {
        let table = |name: &str, url: &str| {
            format!("[[providers]]\nname = \"{name}\"\nkind = \"ollama\"\nurl = \"{url}\"\n")
        };
        let cases = [
            (
                table("ollama", "http://other"),
                "a provider `ollama` already",
            ),
            (table("mine", "http://127.0.0.1:11434/v1/"), "`mine` is at"),
            ("port = ".to_owned(), "cannot be read"),
            ("providers = []\n".to_owned(), "`[[providers]]` tables"),
        ];
        for (text, part) in cases {
            let told = with_providers(&text, &[ollama()]).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
        let twice = with_providers("", &[ollama(), ollama()]).unwrap_err();
        assert!(twice.contains("already"), "{twice}");
    }
}
