use std::process::Command;

use super::*;

#[path = "../../../tests/it/pty.rs"]
#[expect(dead_code, reason = "the other tests use the rest of it")]
mod pty;

const INNER: &str = "SEXTANT_TEST_PANICS";

/// The test starts itself on a terminal of its own, and panics there.
#[test]
fn a_panic_gives_the_terminal_back() {
    if std::env::var_os(INNER).is_some() {
        let mut screen = Screen::take().unwrap();
        screen.show(vec![Line::raw("it is ours")]).unwrap();
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
        panic!("as it was told to");
    }
    let mut inner = Command::new(std::env::current_exe().unwrap());
    let name = "top::screen::tests::a_panic_gives_the_terminal_back";
    inner.args(["--exact", name, "--nocapture"]).env(INNER, "1");
    let mut terminal = pty::Pty::start(&inner, (80, 24));
    terminal.wait_for("it is ours");
    assert!(terminal.is_raw() && terminal.screen().alternate_screen());
    // Ctrl-J, which is a line's end in raw mode too.
    terminal.press("\n");
    terminal.wait_for("as it was told to");
    assert!(!terminal.screen().alternate_screen(), "the message is seen");
    assert_eq!(terminal.end(), 101);
}
