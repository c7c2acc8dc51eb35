//! The routes of another endpoint, through the one that has it as a provider.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use testkit::tiny::Family;

use super::sandbox::{Sandbox, Served};

const KEY: &str = "a-key-of-the-board";

/// An endpoint with a model and a key, and one that has it as the provider `board`.
fn both(key: &str) -> (Sandbox, Served, Sandbox, Served) {
    let mut far = Sandbox::new();
    far.add_family("plain", Family::Llama);
    far.set("SEXTANT_API_KEY", KEY);
    let board = far.serve(&["plain", "--context=256"]);
    let mut near = Sandbox::new();
    near.set("BOARD_KEY", key);
    near.write(
        "near.toml",
        &format!(
            "[[providers]]\nname = 'board'\nkind = 'sextant'\nurl = 'http://{}'\nkey_env = 'BOARD_KEY'\n\
             [[providers]]\nname = 'other'\nkind = 'openai'\nurl = 'http://127.0.0.1:1'\nmodels = ['m']\n",
            board.address
        ),
    );
    let here = near.serve(&["--config=near.toml", "--discovery=false"]);
    (far, board, near, here)
}

#[test]
fn the_routes_of_a_host_are_asked_with_the_key_of_the_configuration() {
    let (_far, board, _near, here) = both(KEY);
    let listed = here.ask("GET", "/v1/providers", "");
    let hosts = listed["data"].as_array().unwrap().iter();
    let hosts: Vec<_> = hosts
        .filter(|one| one["is_host"] == true)
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(hosts, ["board"], "{listed}");

    let models = here.ask("GET", "/hosts/board/admin/models", "");
    assert!(models.to_string().contains("plain"), "{models}");
    let body = r#"{"model":"plain","max_tokens":2,"messages":[{"role":"user","content":"Hello"}]}"#;
    let answer = here.ask("POST", "/hosts/board/v1/chat/completions", body);
    assert!(answer["choices"].is_array(), "{answer}");
    let refused = board.ask("GET", "/admin/models", "");
    assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");

    for path in [
        "/hosts/absent/api/version",
        "/hosts/other/api/version",
        "/hosts/board/metrics",
        "/hosts/board/api/../metrics",
        "/hosts/board/hosts/board/api/version",
    ] {
        let refused = here.ask("GET", path, "");
        assert_eq!(
            refused["error"]["code"], "route_not_found",
            "{path} {refused}"
        );
    }
    // Its own errors are told as they are.
    let refused = here.ask("POST", "/hosts/board/v1/chat/completions", "{");
    assert_eq!(refused["error"]["code"], "invalid_json", "{refused}");
}

#[test]
fn events_of_a_host_come_as_it_sends_them() {
    let (_far, _board, _near, here) = both(KEY);
    let mut socket = TcpStream::connect(&here.address).unwrap();
    let request = "GET /hosts/board/api/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(socket).lines().map(Result::unwrap);
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head[0].ends_with("200 OK"), "{head:?}");
    let has = |wanted: &str| head.iter().any(|line| line.to_lowercase() == wanted);
    assert!(
        has("content-type: text/event-stream; charset=utf-8"),
        "{head:?}"
    );
    assert!(
        has("content-security-policy: default-src 'none'; sandbox"),
        "{head:?}"
    );
    let data = lines.find(|line| line.starts_with("data: ")).unwrap();
    assert!(
        data.contains("\"snapshot\"") && data.contains("plain"),
        "{data}"
    );
}

#[test]
fn a_host_that_refuses_or_is_gone_is_told_by_its_name() {
    let (_far, board, _near, here) = both("another-key-altogether");
    let refused = here.ask("GET", "/hosts/board/api/version", "");
    assert_eq!(refused["error"]["code"], "upstream_denied", "{refused}");
    let told = refused["error"]["message"].as_str().unwrap();
    assert!(told.contains("board") && told.contains("key_env"), "{told}");
    assert!(!told.contains("another-key"), "{told}");
    drop(board);
    let gone = here.ask("GET", "/hosts/board/api/version", "");
    assert_eq!(gone["error"]["code"], "upstream_unreachable", "{gone}");
    assert!(
        gone["error"]["message"].as_str().unwrap().contains("board"),
        "{gone}"
    );
}

#[test]
fn a_key_without_the_scope_may_not_ask_a_host() {
    let (_far, board, mut near, here) = both(KEY);
    drop(here);
    let added = near.run(&["key", "add", "--name", "app", "--scope", "chat,models"]);
    let key = added.stdout.lines().find(|line| line.starts_with("sx-"));
    let key = key
        .unwrap_or_else(|| panic!("{} {}", added.stdout, added.stderr))
        .to_owned();
    near.set("SEXTANT_API_KEY", "of-the-operator");
    let here = near.serve(&["--config=near.toml", "--discovery=false"]);
    let ask = |key: &str| {
        let mut socket = TcpStream::connect(&here.address).unwrap();
        let request = format!(
            "GET /hosts/board/api/version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {key}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).unwrap();
        BufReader::new(socket).lines().next().unwrap().unwrap()
    };
    assert!(ask(&key).contains(" 403 "), "{}", ask(&key));
    assert!(
        ask("of-the-operator").contains(" 200 "),
        "{}",
        ask("of-the-operator")
    );
    drop(board);
}
