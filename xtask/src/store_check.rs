//! Fills a database with chats, and times over HTTP what the workbench asks of it: a list, a
//! search, a chat that is opened.

use crate::bench::machine;
use crate::http::Client;
use crate::shell::{root, target_dir};
use crate::ui;
use anyhow::{Context, Result, ensure};
use router::Reach;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use store::{
    Chat, ChatFilter, ChatMessage, ChatRole, ChatWrite, ChatWriter, MessageState, Session, Store,
};

mod text;

use text::Words;

/// What a list, a search and an opening may take, at the 95th percentile.
const P95_MS_MAX: f64 = 100.0;
/// Chats that wait to be written: enough to keep the thread busy, few enough for memory.
const WRITES_WAITING_MAX: usize = 16;
/// Messages of the longest chat: as many as the endpoint takes.
const LONGEST: u32 = 4096;
/// Chats of one page, as the workbench asks.
const PAGE: u32 = 60;
/// Milliseconds since 1970 of the first chat, and between two.
const FIRST_MS: u64 = 1_700_000_000_000;
const APART_MS: u64 = 60_000;
/// A key that has one chat among all the others.
const KEY: &str = "key_of_one_chat";
/// Says that a database was filled to the end.
const FILLED: &str = "filled";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 10_000)]
    chats: u32,
    #[arg(long, default_value_t = 1_000_000)]
    messages: u32,
    /// Requests of each kind.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// Fills the database again, although an earlier call has.
    #[arg(long)]
    anew: bool,
}

/// Times of one kind of request, in milliseconds.
struct Row {
    what: &'static str,
    times: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let name = format!("{}-{}", arguments.chats, arguments.messages);
    let home = target_dir().join("store-check").join(name);
    let data = home.join("data");
    let filled = fill(arguments, &data)?;
    let server = ui::serve(&home, None)?;
    let mut timer = Timer {
        client: &server.client,
        rounds: arguments.rounds,
        rows: Vec::new(),
    };
    lists(&mut timer, arguments.chats)?;
    searches(&mut timer, arguments.chats)?;
    let mut rows = timer.rows;
    drop(server);
    rows.push(other_owner(arguments, &data)?);
    let page = report(arguments, &data, filled, &rows)?;
    println!("{page}");
    if arguments.chats >= 10_000 && arguments.messages >= 1_000_000 {
        let file = root().join("docs/benchmarks/chats.md");
        fs::write(&file, page)?;
        println!("written: {}", file.display());
    }
    let slow = rows.iter().filter(|row| row.quantile(0.95) > P95_MS_MAX);
    let slow: Vec<_> = slow.map(|row| row.what).collect();
    ensure!(
        slow.is_empty(),
        "over {P95_MS_MAX} ms at the 95th percentile: {}",
        slow.join("; ")
    );
    Ok(())
}

/// How long filling took; `None`: an earlier call did it.
fn fill(arguments: &Arguments, data: &Path) -> Result<Option<Duration>> {
    let mark = data.join(FILLED);
    if mark.exists() && !arguments.anew {
        return Ok(None);
    }
    if data.exists() {
        fs::remove_dir_all(data).with_context(|| format!("{}", data.display()))?;
    }
    fs::create_dir_all(data)?;
    let start = Instant::now();
    let store = Store::open(data)?;
    let mut filling = Filling::start(&store)?;
    let mut words = Words::new(1);
    let each = (arguments.messages / arguments.chats.max(1)).max(1);
    for number in 0..arguments.chats {
        // One of them is as long as a chat can be.
        let made = Made {
            number,
            n_messages: if number == 0 { LONGEST } else { each },
            owner: None,
        };
        filling.write(made.writes(&mut words))?;
        if number % 500 == 0 {
            eprintln!("{number} of {} chats are written", arguments.chats);
        }
    }
    let of_key = Made {
        number: arguments.chats,
        n_messages: 2,
        owner: Some(KEY),
    };
    filling.write(of_key.writes(&mut words))?;
    filling.finish()?;
    fs::write(&mark, "")?;
    Ok(Some(start.elapsed()))
}

/// Writes through the thread that the endpoint writes through.
struct Filling {
    writer: ChatWriter,
    waiting: Vec<Receiver<Result<(), store::StoreError>>>,
}

impl Filling {
    fn start(store: &Store) -> Result<Self> {
        Ok(Self {
            writer: store.chat_writer()?,
            waiting: Vec::new(),
        })
    }

    fn write(&mut self, writes: Vec<ChatWrite>) -> Result<()> {
        if self.waiting.len() >= WRITES_WAITING_MAX {
            self.waiting.remove(0).recv()??;
        }
        let (sender, receiver) = sync_channel(1);
        let written = Box::new(move |outcome| {
            // It is asked for below, unless another failed before.
            let _ = sender.send(outcome);
        });
        ensure!(
            self.writer.write(writes, written),
            "the queue of the database is full"
        );
        self.waiting.push(receiver);
        Ok(())
    }

    fn finish(self) -> Result<()> {
        for one in self.waiting {
            one.recv()??;
        }
        Ok(())
    }
}

fn chat_id(number: u32) -> String {
    format!("chat_{number:06}")
}

/// A chat with questions and answers by turns.
struct Made {
    number: u32,
    n_messages: u32,
    owner: Option<&'static str>,
}

impl Made {
    fn writes(&self, words: &mut Words) -> Vec<ChatWrite> {
        let at_ms = FIRST_MS + u64::from(self.number) * APART_MS;
        let mut writes = vec![ChatWrite::Chat(Chat {
            id: chat_id(self.number),
            owner: self.owner.map(str::to_owned),
            title: words.sentence(3..9),
            model: Some("SmolLM2-135M-Instruct".to_owned()),
            leaf: Some(self.message_id(self.n_messages - 1)),
            created_ms: at_ms,
            changed_ms: at_ms + u64::from(self.n_messages),
        })];
        for at in 0..self.n_messages {
            let is_answer = at % 2 == 1;
            let (role, length) = match is_answer {
                true => (ChatRole::Assistant, 30..200),
                false => (ChatRole::User, 4..40),
            };
            writes.push(ChatWrite::Message(Box::new(ChatMessage {
                id: self.message_id(at),
                chat: chat_id(self.number),
                parent: at.checked_sub(1).map(|before| self.message_id(before)),
                role,
                text: words.sentence(length),
                reasoning: String::new(),
                state: MessageState::Done,
                reach: Reach::Cloud,
                detail: is_answer.then(|| r#"{"completion_tokens":120}"#.to_owned()),
                created_ms: at_ms + u64::from(at),
            })));
        }
        writes
    }

    fn message_id(&self, at: u32) -> String {
        format!("msg_{:06}_{at:04}", self.number)
    }
}

/// Times requests over HTTP.
struct Timer<'a> {
    client: &'a Client,
    rounds: usize,
    rows: Vec<Row>,
}

impl Timer<'_> {
    /// Each round asks for a path of its own.
    fn time(&mut self, what: &'static str, mut path: impl FnMut() -> String) -> Result<()> {
        let mut times = Vec::with_capacity(self.rounds);
        for _ in 0..self.rounds {
            let path = path();
            let start = Instant::now();
            self.client.text(&path)?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        let row = Row { what, times };
        eprintln!("{}", row.line());
        self.rows.push(row);
        Ok(())
    }
}

/// A page of the list, as the workbench asks for it.
fn page(search: Option<&str>, before: Option<u64>) -> String {
    let mut path = format!("/api/chats?limit={PAGE}");
    if let Some(words) = search {
        path += &format!("&search={}", words.replace(' ', "+"));
    }
    if let Some(before) = before {
        path += &format!("&before={before}");
    }
    path
}

/// A time between those of the first and the last chat.
fn some_time(picked: &mut Words, n_chats: u32) -> u64 {
    FIRST_MS + picked.below(u64::from(n_chats)) * APART_MS
}

fn lists(timer: &mut Timer<'_>, n_chats: u32) -> Result<()> {
    let mut picked = Words::new(3);
    timer.time("list: the first page", || page(None, None))?;
    timer.time("list: a page further down", || {
        page(None, Some(some_time(&mut picked, n_chats)))
    })?;
    timer.time("open: any chat", || {
        let number = 1 + picked.below(u64::from(n_chats.max(2)) - 1) as u32;
        format!("/api/chats/{}", chat_id(number))
    })?;
    timer.time("open: the longest", || format!("/api/chats/{}", chat_id(0)))
}

fn searches(timer: &mut Timer<'_>, n_chats: u32) -> Result<()> {
    let mut words = Words::new(2);
    let search = |words: &str| page(Some(words), None);
    timer.time("search: one of the 50 commonest words", || {
        search(&words.ranked(0..50))
    })?;
    timer.time("search: a word of middling frequency", || {
        search(&words.ranked(500..5000))
    })?;
    timer.time("search: a rare word", || {
        search(&words.ranked(15_000..20_000))
    })?;
    timer.time("search: a common and a rare word", || {
        let (common, rare) = (words.ranked(0..50), words.ranked(5000..20_000));
        search(&format!("{common} {rare}"))
    })?;
    timer.time("search: two middling words", || {
        let (one, other) = (words.ranked(200..2000), words.ranked(200..2000));
        search(&format!("{one} {other}"))
    })?;
    for (what, n_letters) in [
        ("search: the first letter of a word", 1),
        ("search: two letters", 2),
        ("search: three letters", 3),
        ("search: four letters", 4),
    ] {
        timer.time(what, || {
            let word = words.ranked(0..20_000);
            search(&word.chars().take(n_letters).collect::<String>())
        })?;
    }
    timer.time("search: a word that is nowhere", || search("xqzxqz"))?;
    let mut picked = Words::new(5);
    timer.time("search: a common word, a page further down", || {
        let before = some_time(&mut picked, n_chats);
        page(Some(&words.ranked(0..50)), Some(before))
    })
}

/// A key with one chat, whose words are in most of everybody else's messages.
fn other_owner(arguments: &Arguments, data: &Path) -> Result<Row> {
    let session: Session = Store::open(data)?.connect()?;
    let mut words = Words::new(4);
    let mut times = Vec::with_capacity(arguments.rounds);
    for _ in 0..arguments.rounds {
        let filter = ChatFilter {
            owner: Some(KEY.to_owned()),
            words: words.ranked(0..50),
            before_ms: None,
            limit: PAGE,
        };
        let start = Instant::now();
        let found = session.chats(&filter)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        ensure!(found.len() <= 1, "a key sees chats of others");
    }
    let row = Row {
        what: "search: a common word, by a key that has one chat; without HTTP",
        times,
    };
    eprintln!("{}", row.line());
    Ok(row)
}

impl Row {
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort_by(f64::total_cmp);
        ::bench::speeds::quantile(&sorted, share)
    }

    fn line(&self) -> String {
        format!(
            "| {} | {:.1} | {:.1} | {:.1} |",
            self.what,
            self.quantile(0.5),
            self.quantile(0.95),
            self.quantile(1.0)
        )
    }
}

fn report(
    arguments: &Arguments,
    data: &Path,
    filled: Option<Duration>,
    rows: &[Row],
) -> Result<String> {
    let file: PathBuf = data.join(store::FILE_NAME);
    let mib = fs::metadata(&file)?.len() >> 20;
    let filled = filled.map_or(String::new(), |took| {
        format!(" Filling it took {:.0} s.", took.as_secs_f64())
    });
    let mut page = format!(
        "# A long life of chats\n\nWritten by `cargo xtask store-check`: {} chats with {} messages \
         of a made-up language whose words\nare as frequent as those of a real one (the most \
         frequent in most messages, the rarest in a few), one\nchat of {LONGEST} messages among \
         them. The file has {mib} MiB.{filled} Milliseconds from the request to the\nlast byte \
         over HTTP, {} requests of each kind with words and chats drawn anew; {}.\n\n\
         | what | median | p95 | worst |\n|---|---:|---:|---:|\n",
        arguments.chats,
        arguments.messages,
        arguments.rounds,
        machine::cpu(),
    );
    for row in rows {
        writeln!(page, "{}", row.line())?;
    }
    writeln!(
        page,
        "\nThe limit is {P95_MS_MAX} ms at the 95th percentile."
    )?;
    Ok(page)
}
