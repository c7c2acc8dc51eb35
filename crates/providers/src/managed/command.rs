//! The command line of a llama-server: what it says already, what we add, and how it is shown.
//! Pure.

use std::collections::BTreeMap;

use router::Reach;
use stdx::Secret;

/// Flags by which a llama-server is told something that this module has to know.
const HOST: &[&str] = &["--host"];
const PORT: &[&str] = &["--port"];
const ALIAS: &[&str] = &["-a", "--alias"];
const MODEL: &[&str] = &["-m", "--model"];
const REPOSITORY: &[&str] = &["-hf", "-hfr", "--hf-repo"];
const PREFIX: &[&str] = &["--api-prefix"];
const KEY: &[&str] = &["--api-key"];
const KEY_FILE: &[&str] = &["--api-key-file"];
const TLS: &[&str] = &["--ssl-key-file", "--ssl-cert-file"];
/// A secret without a word that says so.
const SHORT_SECRETS: &[&str] = &["-hft"];
/// The variable in which it takes its key.
const KEY_VARIABLE: &str = "LLAMA_API_KEY";

/// A secret shorter than this is not looked for in log lines: it would be found everywhere.
const SCRUBBED_BYTES_MIN: usize = 4;

/// What is started.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Command {
    /// The program and its arguments, as the operator wrote them.
    words: Vec<Secret>,
    /// Further variables of its environment.
    pub(crate) env: BTreeMap<String, Secret>,
    host: String,
    port: Option<u16>,
    prefix: String,
    /// The name of its model, if that can be known.
    pub(crate) model: Option<String>,
    /// What it asks of its clients.
    pub(crate) key: Option<Secret>,
}

/// Whether a process can be given these at all.
fn check(words: &[Secret], env: &BTreeMap<String, Secret>) -> Result<(), String> {
    if words.first().is_none_or(|word| word.expose().is_empty()) {
        return Err("has an empty `command`; it must begin with a program".into());
    }
    if words.iter().any(|word| word.expose().contains('\0')) {
        return Err("has a `command` with a zero byte in it".into());
    }
    let is_variable = |name: &&String| !name.is_empty() && !name.contains(['=', '\0']);
    match env.keys().find(|name| !is_variable(name)) {
        Some(name) => Err(format!(
            "has `{name}` in `env`, which no variable is called"
        )),
        None => Ok(()),
    }
}

impl Command {
    /// `key` is what the provider's own settings say; where the command has none, it becomes
    /// the engine's.
    ///
    /// # Errors
    /// What is wrong with it, in words that complete "the provider ...".
    pub(crate) fn new(
        words: Vec<Secret>,
        mut env: BTreeMap<String, Secret>,
        key: Option<Secret>,
    ) -> Result<Self, String> {
        check(&words, &env)?;
        let value = |names: &[&str]| value(&words, names);
        if value(TLS).is_some() {
            return Err(
                "has `--ssl-key-file` or `--ssl-cert-file` in its `command`; it is asked \
                        on this machine only, without TLS: leave them out"
                    .into(),
            );
        }
        let port = value(PORT).map(|text| match text.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ => Err(format!(
                "has `--port {text}` in its `command`; it must be from 1 to 65535, or left out"
            )),
        });
        let host = value(HOST).unwrap_or("127.0.0.1");
        if host.ends_with(".sock") || host.contains(['/', '@']) {
            return Err(format!(
                "has `--host {host}` in its `command`; it must be an address, or left out"
            ));
        }
        let own_key = value(KEY).or_else(|| env.get(KEY_VARIABLE).map(Secret::expose));
        let key = match own_key {
            // It takes any of a list.
            Some(keys) => keys
                .split(',')
                .next()
                .map(|key| Secret::new(key.trim().to_owned())),
            None => key,
        };
        if let Some(key) = &key
            && own_key.is_none()
            && value(KEY_FILE).is_none()
        {
            env.insert(KEY_VARIABLE.into(), key.clone());
        }
        let file = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.strip_suffix(".gguf").unwrap_or(name).to_owned()
        };
        let alias = value(ALIAS).and_then(|names| names.split(',').next());
        let model = alias.map(|name| name.trim().to_owned());
        let model = model
            .or_else(|| value(MODEL).map(file))
            .or_else(|| value(REPOSITORY).map(file));
        Ok(Self {
            host: reachable(host),
            port: port.transpose()?,
            prefix: value(PREFIX)
                .unwrap_or_default()
                .trim_matches('/')
                .to_owned(),
            model,
            key,
            env,
            words,
        })
    }

    pub(crate) fn program(&self) -> &str {
        self.words.first().map_or("", |word| word.expose())
    }

    /// The port that the operator wants.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// All arguments for a start on `port`.
    pub(crate) fn arguments(&self, port: u16) -> Vec<Secret> {
        let given = self.words.iter().skip(1).cloned();
        let added = self.added(Some(port)).into_iter();
        given.chain(added.map(Secret::new)).collect()
    }

    /// What we add to the command: where it listens, and what its model is called.
    fn added(&self, port: Option<u16>) -> Vec<String> {
        let mut added = Vec::new();
        let mut add = |names: &[&str], text: String| {
            if value(&self.words, names).is_none()
                && let Some(name) = names.last()
            {
                added.extend([(*name).to_owned(), text]);
            }
        };
        add(HOST, "127.0.0.1".into());
        add(
            PORT,
            port.map_or_else(|| "PORT".into(), |port| port.to_string()),
        );
        if let Some(model) = &self.model {
            add(ALIAS, model.clone());
        }
        added
    }

    /// The command line without its secrets; without a port as it will be.
    pub(crate) fn shown(&self, port: Option<u16>) -> String {
        let mut shown: Vec<String> = Vec::new();
        let mut hides = false;
        for word in &self.words {
            let text = word.expose();
            let (flag, joined) = match text.split_once('=') {
                Some((flag, _)) => (flag, true),
                None => (text, false),
            };
            shown.push(match (hides, is_secret(flag), joined) {
                (true, _, _) => "****".into(),
                (false, true, true) => format!("{flag}=****"),
                _ => quoted(text),
            });
            hides = !hides && is_secret(flag) && !joined;
        }
        shown.extend(self.added(port).iter().map(|word| quoted(word)));
        shown.join(" ")
    }

    /// A line of its log without its secrets. It shows the end of its keys itself, after
    /// four asterisks.
    pub(crate) fn scrubbed(&self, line: &str) -> String {
        let mut line = line.to_owned();
        let flags = self.words.iter().zip(self.words.iter().skip(1));
        let of_flags = flags.filter(|(flag, _)| is_secret(flag.expose()));
        let of_flags = of_flags.map(|(_, value)| value.expose());
        let joined = self.words.iter().filter_map(|word| {
            let (flag, value) = word.expose().split_once('=')?;
            is_secret(flag).then_some(value)
        });
        let of_env = self.env.values().map(Secret::expose);
        let secrets = of_flags.chain(joined).chain(of_env);
        for secret in secrets.flat_map(|secret| secret.split(',').chain([secret])) {
            if secret.len() < SCRUBBED_BYTES_MIN {
                continue;
            }
            line = line.replace(secret, "****");
            let end = secret.char_indices().rev().nth(3).map_or(0, |(at, _)| at);
            line = line.replace(&format!("****{}", &secret[end..]), "****");
        }
        line
    }

    /// Where it answers.
    pub(crate) fn url(&self, port: u16) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.prefix.as_str() {
            "" => format!("http://{host}:{port}"),
            prefix => format!("http://{host}:{port}/{prefix}/v1"),
        }
    }

    /// The route that says whether it is ready.
    pub(crate) fn health(&self, port: u16) -> String {
        let url = self.url(port);
        format!("{}/health", url.strip_suffix("/v1").unwrap_or(&url))
    }

    /// It runs here, whatever address it listens on.
    pub(crate) const fn reach() -> Reach {
        Reach::Device
    }
}

/// The value of the last of these flags.
fn value<'a>(words: &'a [Secret], names: &[&str]) -> Option<&'a str> {
    let pairs = words.iter().zip(words.iter().skip(1));
    let mut found = pairs.filter(|(flag, _)| names.contains(&flag.expose()));
    found.next_back().map(|(_, value)| value.expose())
}

/// An address to reach one by that listens on all of them.
fn reachable(host: &str) -> String {
    match host {
        "0.0.0.0" => "127.0.0.1".into(),
        "::" => "::1".into(),
        host => host.to_owned(),
    }
}

/// Whether the value of a flag is one, by the flag's name; the name of a file is none.
fn is_secret(flag: &str) -> bool {
    let Some(name) = flag.strip_prefix("--") else {
        return SHORT_SECRETS.contains(&flag);
    };
    let mut words = name.split('-');
    let names_one = words.any(|word| matches!(word, "key" | "token" | "password" | "secret"));
    names_one && !name.ends_with("-file")
}

/// A word as a shell would want it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@+%".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Result<Command, String> {
        let words = words.iter().map(|word| Secret::new((*word).to_owned()));
        Command::new(words.collect(), BTreeMap::new(), None)
    }

    #[test]
    fn we_add_where_it_listens_and_what_its_model_is_called() {
        let cases: [(&[&str], &str); 4] = [
            (
                &[
                    "llama-server",
                    "--model",
                    "/models/x.gguf",
                    "--ctx-size",
                    "16384",
                ],
                "llama-server --model /models/x.gguf --ctx-size 16384 --host 127.0.0.1 \
                 --port 9 --alias x",
            ),
            (
                &[
                    "llama-server",
                    "-m",
                    "a b.gguf",
                    "--host",
                    "0.0.0.0",
                    "--port",
                    "77",
                ],
                "llama-server -m 'a b.gguf' --host 0.0.0.0 --port 77 --alias 'a b'",
            ),
            (
                &["llama-server", "-hf", "o/r:Q4", "-a", "big,large"],
                "llama-server -hf o/r:Q4 -a big,large --host 127.0.0.1 --port 9",
            ),
            (
                &["llama-server", "--models-dir", "/m"],
                "llama-server --models-dir /m --host 127.0.0.1 --port 9",
            ),
        ];
        for (words, shown) in cases {
            assert_eq!(command(words).unwrap().shown(Some(9)), shown);
        }
        let big = command(&["s", "-a", "big,large"]).unwrap();
        assert_eq!(big.model.as_deref(), Some("big"));
    }

    #[test]
    fn addresses_follow_its_flags() {
        let open = command(&["s", "--host", "0.0.0.0", "--port", "77"]).unwrap();
        assert_eq!(
            (open.url(77), open.port()),
            ("http://127.0.0.1:77".into(), Some(77))
        );
        let six = command(&["s", "--host", "::", "--api-prefix", "/llm/"]).unwrap();
        assert_eq!(six.url(5), "http://[::1]:5/llm/v1");
        assert_eq!(six.health(5), "http://[::1]:5/llm/health");
    }

    #[test]
    fn what_cannot_be_started_is_refused_in_words() {
        let cases: [(&[&str], &str); 5] = [
            (&[], "empty `command`"),
            (&[""], "empty `command`"),
            (&["s", "--port", "0"], "`--port 0`"),
            (&["s", "--host", "/run/x.sock"], "must be an address"),
            (&["s", "--ssl-key-file", "k"], "leave them out"),
        ];
        for (words, part) in cases {
            let told = command(words).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn secrets_are_neither_shown_nor_logged() {
        let words = [
            "s",
            "--api-key",
            "sk-abcdefgh",
            "-hft",
            "hf_token99",
            "--api-key-file",
            "f",
        ];
        let words = words.iter().map(|word| Secret::new((*word).to_owned()));
        let env = BTreeMap::from([("HF_TOKEN".into(), Secret::new("hf_other77".to_owned()))]);
        let command = Command::new(words.collect(), env, None).unwrap();
        assert_eq!(
            command.shown(None),
            "s --api-key **** -hft **** --api-key-file f --host 127.0.0.1 --port PORT"
        );
        let debug = format!("{command:?}");
        for secret in ["sk-abcdefgh", "hf_token99", "hf_other77"] {
            assert!(!debug.contains(secret), "{debug}");
            assert_eq!(command.scrubbed(&format!("got {secret}!")), "got ****!");
        }
        assert_eq!(command.scrubbed("api_keys: ****efgh"), "api_keys: ****");
        assert_eq!(
            command.key.as_ref().map(Secret::expose),
            Some("sk-abcdefgh")
        );
        let joined = Command::new(
            vec![
                Secret::new("s".to_owned()),
                Secret::new("--api-key=sk-1234".to_owned()),
            ],
            BTreeMap::new(),
            None,
        );
        assert!(joined.unwrap().shown(None).starts_with("s --api-key=**** "));
    }

    #[test]
    fn the_provider_key_becomes_the_engines_unless_it_has_one() {
        let given = Some(Secret::new("from-us".to_owned()));
        let words = |words: &[&str]| {
            let words = words.iter().map(|word| Secret::new((*word).to_owned()));
            words.collect::<Vec<_>>()
        };
        let ours = Command::new(words(&["s"]), BTreeMap::new(), given.clone()).unwrap();
        assert_eq!(ours.env[KEY_VARIABLE].expose(), "from-us");
        let own = words(&["s", "--api-key", "one, two"]);
        let theirs = Command::new(own, BTreeMap::new(), given).unwrap();
        assert!(theirs.env.is_empty());
        assert_eq!(theirs.key.as_ref().map(Secret::expose), Some("one"));
    }
}
