//! `sextant init`: what is told, and the file that is written.

use serde_json::Value;
use testkit::tiny::Family;

use super::sandbox::Sandbox;

const FILE: &str = ".config/sextant/config.toml";

fn read(sandbox: &Sandbox, name: &str) -> String {
    std::fs::read_to_string(sandbox.dir().join(name)).unwrap()
}

#[test]
fn the_file_says_what_holds_anyway_and_every_line_of_it_can_be_used() {
    let sandbox = Sandbox::new();
    let before = sandbox.run(&["config", "--json"]).stdout;
    let ran = sandbox.run(&["init"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("none here yet"), "{}", ran.stdout);
    assert!(ran.stdout.contains("sextant pull "), "{}", ran.stdout);
    assert_eq!(sandbox.run(&["config", "--json"]).stdout, before);
    // With its comments taken away where they hide a setting.
    let text = read(&sandbox, FILE);
    let is_setting = |line: &str| {
        let name = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(" = "));
        name.is_some_and(|(name, _)| config::setting(name).is_some())
    };
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let end = lines.iter().position(|line| line.contains("[[models]]"));
    lines.truncate(end.unwrap());
    let settings: Vec<_> = lines.iter_mut().filter(|line| is_setting(line)).collect();
    assert!(settings.len() > 10, "{text}");
    for line in settings {
        *line = line.trim_start_matches("# ").to_owned();
    }
    sandbox.write("used.toml", &lines.join("\n"));
    let ran = sandbox.run(&["config", "--json", "--config", "used.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let values: Value = serde_json::from_str(&ran.stdout).unwrap();
    let values = values.as_array().unwrap();
    let of_file = values.iter().filter(|value| {
        let source = value["source"].as_str().unwrap();
        source.starts_with("used.toml:")
    });
    assert!(of_file.count() > 10, "{}", ran.stdout);
}

#[test]
fn models_that_are_here_get_presets_that_the_server_takes() {
    let sandbox = Sandbox::new();
    sandbox.add_family("plain", Family::Llama);
    let ran = sandbox.run(&["init", "--json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["models"][0]["id"], "plain");
    assert_eq!(told["presets"][0]["model"]["id"], "plain");
    assert_eq!(told["config"]["written"], true);
    assert_eq!(told["next"], serde_json::json!(["sextant serve"]));
    assert!(told["machine"]["cores"].as_u64() > Some(0), "{told}");
    let text = read(&sandbox, FILE);
    assert!(text.contains("\n[[models]]\nname = \"daily\"\n"), "{text}");
    let served = sandbox.serve(&[]);
    let models = served.ask("GET", "/v1/models", "");
    let names: Vec<_> = models["data"].as_array().unwrap().iter().collect();
    assert!(names.iter().any(|model| model["id"] == "daily"), "{models}");
}

#[test]
fn a_file_that_is_there_goes_only_when_asked_and_is_kept() {
    let sandbox = Sandbox::new();
    // Not even one that can be read.
    sandbox.write("mine.toml", "contxt = 1\n");
    let init = |more: &[&str]| {
        let args = [&["init", "--json", "--config", "mine.toml"], more].concat();
        let ran = sandbox.run(&args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let told = init(&[]);
    assert_eq!(told["config"]["written"], false);
    assert_eq!(read(&sandbox, "mine.toml"), "contxt = 1\n");
    let told = init(&["--force"]);
    assert_eq!(told["config"]["written"], true);
    assert!(
        told["config"]["old"]
            .as_str()
            .unwrap()
            .ends_with("mine.toml.old")
    );
    assert_eq!(read(&sandbox, "mine.toml.old"), "contxt = 1\n");
    assert!(read(&sandbox, "mine.toml").starts_with("# Sextant's settings"));
    let next = told["next"].as_array().unwrap().last().unwrap();
    assert_eq!(next, "sextant serve --config mine.toml");
    let ran = sandbox.run(&["config", "--config", "mine.toml"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}
