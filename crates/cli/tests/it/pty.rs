//! A terminal for programs that want one: a pseudo terminal, and what its screen would show.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// Long enough for the slowest machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pty {
    controller: File,
    /// Held so that the terminal outlives the program.
    terminal: File,
    child: Child,
    parser: vt100::Parser,
    before: Termios,
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pty {
    /// Starts a program on a terminal of its own, of so many columns and rows.
    pub(crate) fn start(command: &Command, (columns, rows): (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = File::from(openpt(flags).unwrap());
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NOCTTY.bits()).unwrap())
            .open(name.to_str().unwrap())
            .unwrap();
        tcsetwinsize(&controller, size(columns, rows)).unwrap();
        let before = tcgetattr(&terminal).unwrap();
        let side = || Stdio::from(terminal.try_clone().unwrap());
        // It becomes the program, in a session whose terminal this is.
        let mut session = Command::new("setsid");
        session
            .args(["--ctty", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .stdin(side())
            .stdout(side())
            .stderr(side());
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        let vars = command.get_envs();
        session.envs(vars.filter_map(|(name, value)| Some((name, value?))));
        session.env("TERM", "xterm-256color");
        Self {
            child: session.spawn().unwrap(),
            controller,
            terminal,
            parser: vt100::Parser::new(nonzero(rows), nonzero(columns), 0),
            before,
        }
    }

    pub(crate) fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// Reads until the screen is so, which it must become.
    pub(crate) fn wait_until(&mut self, what: &str, is_so: impl Fn(&vt100::Screen) -> bool) {
        let start = Instant::now();
        while !is_so(self.parser.screen()) {
            let is_alive = start.elapsed() < PATIENCE && self.read();
            let contents = self.parser.screen().contents();
            assert!(is_alive, "{what} did not come: {contents}");
        }
    }

    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |screen| screen.contents().contains(text));
    }

    pub(crate) fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&mut self, (columns, rows): (u16, u16)) {
        self.parser
            .screen_mut()
            .set_size(nonzero(rows), nonzero(columns));
        tcsetwinsize(&self.controller, size(columns, rows)).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether what is typed goes to the program as it is.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).unwrap().local_modes;
        !modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO)
    }

    /// Waits for the end of the program, checks that the terminal is as it was, and gives the
    /// exit code.
    pub(crate) fn end(mut self) -> i32 {
        let start = Instant::now();
        let status = loop {
            // A program that cannot write does not end.
            self.read_within(Duration::from_millis(20));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
        };
        while self.read_within(Duration::from_millis(200)) {}
        let after = tcgetattr(&self.terminal).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        assert_eq!(after.output_modes, self.before.output_modes);
        assert!(!self.screen().alternate_screen(), "the other screen stays");
        assert!(!self.screen().hide_cursor(), "the cursor stays hidden");
        status.code().unwrap_or(-1)
    }

    fn read(&mut self) -> bool {
        self.read_within(PATIENCE)
    }

    /// Reads what has come, or comes in that time; `false` where nothing does.
    fn read_within(&mut self, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap();
        let fd = self.controller.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut fds, Some(&time)));
        if ready.unwrap() == 0 {
            return false;
        }
        let mut buffer = [0; 4096];
        match self.controller.read(&mut buffer) {
            Ok(n) if n > 0 => self.parser.process(&buffer[..n]),
            _ => return false,
        }
        true
    }
}

fn nonzero(n: u16) -> NonZero<u16> {
    NonZero::new(n).unwrap()
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
