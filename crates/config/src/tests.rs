use std::collections::BTreeSet;
use std::path::Path;

use clap::{ArgMatches, Command};

use super::*;

fn flags(args: &[&str]) -> ArgMatches {
    let command = augment(Command::new("serve").no_binary_name(true), |_| true);
    command.try_get_matches_from(args).unwrap()
}

fn from_flags(args: &[&str]) -> RawConfig {
    RawConfig::gather(&flags(args), [], None)
}

fn from_env(vars: &[(&str, &str)]) -> RawConfig {
    let vars = vars.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    RawConfig::gather(&flags(&[]), vars, None)
}

fn from_file(text: &str) -> RawConfig {
    RawConfig::gather(&flags(&[]), [], Some((Path::new("sextant.toml"), text)))
}

fn errors(raw: &RawConfig) -> String {
    raw.resolve().unwrap_err().to_string()
}

/// A valid value that is not the default.
fn sample(setting: &Setting) -> String {
    match setting.kind {
        Kind::Address => "0.0.0.0:1".into(),
        Kind::Host => "10.0.0.1".into(),
        Kind::Path => "/some/where".into(),
        Kind::Url => "http://127.0.0.1:4318".into(),
        Kind::Secret => "hunter2".into(),
        Kind::List | Kind::Arguments => "tiny".into(),
        Kind::Count { min, max } => {
            let most = max.to_string();
            match setting.default == Some(most.as_str()) {
                true => min.to_string(),
                false => most,
            }
        }
        Kind::Bytes { .. } => "1MiB".into(),
        Kind::Cpus => "0-3,7".into(),
        Kind::KvPlan => "k=q8_0;v[3]=q4_0".into(),
        Kind::Switch if setting.default == Some("true") => "false".into(),
        Kind::Switch => "true".into(),
        Kind::Choice(words) => {
            let other = words.iter().find(|word| Some(**word) != setting.default);
            (*other.unwrap()).into()
        }
    }
}

#[test]
fn every_setting_reaches_the_config_from_every_source() {
    let unset = RawConfig::default().resolve().unwrap();
    for setting in SETTINGS {
        let value = sample(setting);
        let flag = match setting.kind {
            Kind::Arguments => value.clone(),
            _ => format!("--{}={value}", setting.flag()),
        };
        let toml = match setting.kind {
            Kind::List | Kind::Arguments => format!("{} = [\"{value}\"]", setting.name),
            Kind::Count { .. } | Kind::Switch => format!("{} = {value}", setting.name),
            _ => format!("{} = \"{value}\"", setting.name),
        };
        let by_flag = from_flags(&[&flag]).resolve().unwrap();
        let by_env = from_env(&[(&setting.env(), &value)]).resolve().unwrap();
        let by_file = from_file(&toml).resolve().unwrap();
        assert_ne!(by_flag, unset, "{} has no effect", setting.name);
        assert_eq!(by_flag, by_env, "{}", setting.name);
        assert_eq!(by_flag, by_file, "{}", setting.name);
    }
}

#[test]
fn host_and_port_replace_parts_of_listen_from_sources_as_strong() {
    let listen = |raw: &RawConfig| raw.resolve().unwrap().listen.to_string();
    let cases: [(&[&str], &str); 6] = [
        (&["--port=80"], "127.0.0.1:80"),
        (&["--host=::1"], "[::1]:11460"),
        (&["--host=localhost", "--port=80"], "127.0.0.1:80"),
        (&["--listen=10.0.0.1:5", "--port=80"], "10.0.0.1:80"),
        (&["--listen=localhost:5"], "127.0.0.1:5"),
        (&["--listen=10.0.0.1:5", "--host=[::1]"], "[::1]:5"),
    ];
    for (args, want) in cases {
        assert_eq!(listen(&from_flags(args)), want, "{args:?}");
    }
    let env = [("SEXTANT_PORT".into(), "80".into())];
    let file = Some((
        Path::new("sextant.toml"),
        "listen = \"10.0.0.1:5\"\nhost = \"10.0.0.2\"",
    ));
    let raw = RawConfig::gather(&flags(&[]), env.clone(), file);
    assert_eq!(listen(&raw), "10.0.0.2:80");
    let raw = RawConfig::gather(&flags(&["--listen=10.0.0.3:7"]), env, file);
    assert_eq!(listen(&raw), "10.0.0.3:7");
}

#[test]
fn headers_are_read_from_a_file() {
    let folder = std::env::temp_dir().join(format!("sextant-headers-{}", std::process::id()));
    let read = |text: &str| {
        std::fs::write(&folder, text).unwrap();
        let flag = format!("--otlp-headers-file={}", folder.display());
        let config = from_flags(&[&flag]).resolve().unwrap();
        config
            .read_otlp_headers()
            .map_err(|error| error.to_string())
    };
    let headers = read("# of ours\nauthorization: Basic abc=\n\n x-team :blue \n").unwrap();
    let shown: Vec<_> = headers
        .iter()
        .map(|(name, value)| (&**name, value.expose()))
        .collect();
    assert_eq!(shown, [("authorization", "Basic abc="), ("x-team", "blue")]);
    let told = read("x-team: blue\nhunter2\n").unwrap_err();
    std::fs::remove_file(&folder).unwrap();
    assert!(told.contains("line 2"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

#[test]
fn tls_needs_a_certificate_and_a_key() {
    let files = |args: &[&str]| {
        let config = from_flags(args).resolve().unwrap();
        let files = config.tls_files().map_err(|error| error.to_string());
        files.map(|files| files.map(|(certificate, key)| (certificate.to_owned(), key.to_owned())))
    };
    let (certificate, key) = ("--tls-cert-file=a.pem", "--tls-key-file=b.pem");
    assert_eq!(files(&[]), Ok(None));
    let both = ("a.pem".into(), "b.pem".into());
    assert_eq!(files(&[certificate, key]), Ok(Some(both)));
    let told = files(&[certificate]).unwrap_err();
    assert!(told.contains("`tls_key_file` is not"), "{told}");
    let told = files(&[key]).unwrap_err();
    assert!(told.contains("`tls_cert_file` is not"), "{told}");
}

#[test]
fn every_choice_of_the_table_is_understood() {
    for setting in SETTINGS {
        if let Kind::Choice(words) = setting.kind {
            for word in words {
                from_env(&[(&setting.env(), word)]).resolve().unwrap();
            }
        }
    }
}

#[test]
fn the_table_is_sound() {
    let mut names = BTreeSet::new();
    for setting in SETTINGS {
        assert!(names.insert(setting.name), "{} twice", setting.name);
        assert!(setting.doc.ends_with('.'), "{}", setting.name);
        assert_ne!(
            setting.default.is_some(),
            !setting.unset.is_empty(),
            "{} has a default or says what happens without one",
            setting.name
        );
        if let Kind::Count { max, .. } = setting.kind {
            assert!(u32::try_from(max).is_ok(), "{}", setting.name);
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = Some((
        Path::new("sextant.toml"),
        "slots = 1\nthreads = 1\nbatch = 64\n",
    ));
    let env = [("SEXTANT_SLOTS", "2"), ("SEXTANT_THREADS", "2")];
    let env = env.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let raw = RawConfig::gather(&flags(&["--slots", "3"]), env, file);
    let config = raw.resolve().unwrap();
    assert_eq!(
        (config.slots, config.threads, config.batch),
        (Some(3), Some(2), Some(64))
    );
    let sources: Vec<_> = raw
        .effective()
        .iter()
        .filter(|effective| effective.source != Source::Default)
        .map(|effective| {
            let value = effective.value.as_deref().unwrap_or_default();
            format!("{} {value} {}", effective.setting.name, effective.source)
        })
        .collect();
    assert_eq!(
        sources,
        [
            "slots 3 --slots",
            "batch 64 sextant.toml:3",
            "threads 2 SEXTANT_THREADS"
        ]
    );
}

#[test]
fn problems_name_source_value_and_range_and_come_all_at_once() {
    let text = "\
# a comment
contxt = 4096
slots = 0
kv_type_k = \"q3\"
listen = { port = 1 }
zzz = 1
";
    insta::assert_snapshot!(errors(&from_file(text)), @r"
    sextant.toml:2: unknown setting `contxt`; did you mean `context`?
    sextant.toml:5: `listen` must be an IP address with a port, such as 127.0.0.1:11460, not a TOML table
    sextant.toml:6: unknown setting `zzz`; `sextant config` lists all settings
    sextant.toml:3: `slots` is `0`; it must be a whole number from 1 to 64
    sextant.toml:4: `kv_type_k` is `q3`; it must be one of f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1, iq4_nl
    ");
    insta::assert_snapshot!(errors(&from_flags(&["--context=many", "--body-bytes-max", "9GiB"])), @r"
    --body-bytes-max: `body_bytes_max` is `9GiB`; it must be a number of bytes from 1.0 KiB to 48.0 MiB, such as 16MiB (bytes)
    --context: `context` is `many`; it must be a whole number from 8 to 16777216 (tokens)
    ");
    insta::assert_snapshot!(errors(&from_flags(&["--kv-plan=k=q8_0;x[1]=f16"])), @"--kv-plan: `kv_plan` is `k=q8_0;x[1]=f16`; it must be a plan such as k=q8_0,v=q4_0;k[18,20-23]=f16, a pair of types or first-third: `x[1]=f16` is no rule of a KV plan; write `k=TYPE`, `v=TYPE` or `kv=TYPE`, with the layers it is for in brackets, as in `k=q8_0,v=q4_0;k[18,20-23]=f16`");
    insta::assert_snapshot!(errors(&from_env(&[("SEXTANT_MMAP", "yes"), ("SEXTANT_API_KEY", " ")])), @r"
    SEXTANT_API_KEY: `api_key` is `****`; it must be a text that is not empty
    SEXTANT_MMAP: `mmap` is `yes`; it must be true or false
    ");
    insta::assert_snapshot!(errors(&from_file("slots = \nthreads = 2")), @"sextant.toml:1: this is not TOML: string values must be quoted, expected literal string");
}

#[test]
fn settings_that_exclude_each_other_are_told() {
    let raw = from_flags(&[
        "--api-key=a",
        "--api-key-file=b",
        "--batch=8",
        "--ubatch=16",
    ]);
    insta::assert_snapshot!(errors(&raw), @r"
    `api_key` (--api-key) and `api_key_file` (--api-key-file) are both set; keep one of them
    `ubatch` is 16 (--ubatch), more than `batch` with 8 (--batch); it must be at most as large
    ");
}

#[test]
fn secrets_are_not_shown() {
    let raw = from_env(&[("SEXTANT_API_KEY", "hunter2")]);
    let config = raw.resolve().unwrap();
    assert!(!format!("{:?} {config:?}", raw.effective()).contains("hunter2"));
    let key = config.read_api_key().unwrap().unwrap();
    assert_eq!(key.expose(), "hunter2");
}

#[test]
fn unknown_variables_are_kept_for_a_warning() {
    let raw = from_env(&[
        ("SEXTANT_SLOT", "2"),
        ("SEXTANT_CONFIG", "x"),
        ("SEXTANT_MODELS", "/models"),
        ("SEXTANT_THREADS", ""),
        ("OTHER", "1"),
    ]);
    assert_eq!(raw.unknown_env, ["SEXTANT_SLOT"]);
    assert_eq!(raw.resolve().unwrap().threads, None);
}

#[test]
fn switches_do_not_eat_the_model() {
    let config = from_flags(&["--mmap", "a", "b", "--swa-full=false"]);
    let config = config.resolve().unwrap();
    assert_eq!((config.mmap, config.swa_full), (Some(true), Some(false)));
    assert_eq!(config.load, ["a", "b"]);
}

#[test]
fn lists_are_split_at_commas() {
    let want = ["a", "b", "c"];
    let flags = from_flags(&["--hosts=a,b", "--hosts=c"]).resolve().unwrap();
    let env = from_env(&[("SEXTANT_HOSTS", "a, b,c")]).resolve().unwrap();
    let file = from_file("hosts = [\"a\", \"b\", \"c\"]")
        .resolve()
        .unwrap();
    for config in [flags, env, file] {
        assert_eq!(config.hosts, want);
    }
    assert!(from_env(&[("SEXTANT_HOSTS", "a,,b")]).resolve().is_err());
}

#[test]
fn the_file_is_looked_for_in_three_places() {
    let none = |_: &str| None;
    let given = flags(&["--config", "here.toml"]);
    assert_eq!(file_to_read(&given, none), Some("here.toml".into()));
    let env = |name: &str| (name == "SEXTANT_CONFIG").then(|| "there.toml".to_owned());
    assert_eq!(file_to_read(&flags(&[]), env), Some("there.toml".into()));
    assert_eq!(file_to_read(&flags(&[]), none), None);
}

#[test]
fn numbers_and_bytes_are_read_as_people_write_them() {
    let config = from_file("context = 131_072\nbody_bytes_max = \"512 KiB\"\nkeep_alive_secs = 0");
    let config = config.resolve().unwrap();
    assert_eq!(config.context, Some(131_072));
    assert_eq!(config.body_bytes_max, stdx::Bytes(512 << 10));
    assert_eq!(config.keep_alive, None);
    assert!(
        from_file("body_bytes_max = 99999999999999999999")
            .resolve()
            .is_err()
    );
}

#[test]
fn the_reference_page() {
    insta::assert_snapshot!(reference_markdown());
}

#[test]
fn prices_are_exact_and_a_wrong_one_is_named() {
    let provider = |price: &str| {
        let head = "[[providers]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a\"\n";
        from_file(&format!("{head}{price}"))
    };
    let both = "cost_per_million = { prompt = 0.15, completion = 2 }\n\
        [providers.model_cost_per_million]\nlarge = { completion = 0.0000001 }";
    let config = provider(both).resolve().unwrap();
    let table = &config.fleet.providers[0];
    assert_eq!(table.cost_per_million.prompt.0.0, 150_000_000);
    assert_eq!(table.cost_per_million.completion.0.0, 2_000_000_000);
    assert_eq!(table.model_cost_per_million["large"].completion.0.0, 100);
    let told = errors(&provider("cost_per_million = { prompt = -1 }"));
    assert!(
        told.contains("sextant.toml") && told.contains("amount"),
        "{told}"
    );
}

const PRESETS: &str = r#"
context = 2048
slots = 2

[[models]]
name = "coder"
model = "qwen2.5-coder:7b"
aliases = ["code"]
context = 16384
kv_type_k = "q8_0"
pin = true

[[models]]
name = "embedder"
helps = "coder"
keep_alive_secs = 0
"#;

#[test]
fn a_model_has_the_settings_of_its_table_before_all_others() {
    let raw = from_file(PRESETS);
    let config = raw.resolve().unwrap();
    let [coder, embedder] = config.presets.as_slice() else {
        panic!("two models, not {:?}", config.presets);
    };
    assert_eq!(
        (coder.name.as_str(), coder.model.as_str(), coder.pin),
        ("coder", "qwen2.5-coder:7b", true)
    );
    assert_eq!(coder.aliases, ["code"]);
    assert_eq!(
        (coder.config.context, coder.config.slots),
        (Some(16_384), Some(2))
    );
    assert_eq!(coder.config.kv_type_k, Some(crate::CacheType::Q8_0));
    assert_eq!((config.context, config.kv_type_k), (Some(2048), None));
    assert_eq!(embedder.model, "embedder");
    assert_eq!(embedder.keep_alive, Some(None));
    assert_eq!(coder.keep_alive, None);
    assert_eq!(embedder.helps.as_deref(), Some("coder"));
}

#[test]
fn what_is_wrong_with_a_model_is_told_with_its_name() {
    let raw = from_file(
        "[[models]]\nname = \"a\"\ncontext = 1\ncontxt = 5\nport = 1\nslots = [1]\n\
         [[models]]\nname = \"b\"\n[[models]]\nname = \"b\"\n",
    );
    let told = errors(&raw);
    for part in [
        "the model `a`: `context` is `1`; it must be a whole number from 8",
        "the model `a`: unknown setting `contxt`; did you mean `context`?",
        "the model `a`: `port` is for the whole server",
        "the model `a`: `slots` must be a whole number from 1 to 64, not a TOML array",
        "`[[models]]` has the name `b` twice",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn every_key_of_the_routing_says_where_it_stands() {
    let text = "[routing]\nprivacy = \"any\"\n\n[routing.aliases]\n\
        good = [\"a:b\"]\n\"odd.one\" = []\n[routing.tasks]\ncode = [\"a:b\"]\n";
    let routing = from_file(text).resolve().unwrap().fleet.routing;
    for (key, line) in [
        ("privacy", 2),
        ("aliases.good", 5),
        ("aliases.odd.one", 6),
        ("tasks.code", 8),
        ("aliases.nobody", 1),
    ] {
        assert_eq!(
            routing.place_of(key),
            format!("sextant.toml:{line}"),
            "{key}"
        );
    }
}
