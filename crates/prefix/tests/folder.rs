//! The folder against what happens to folders: kills, power cuts, strangers' files.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use prefix::record::{Fault, HEADER_BYTES};
use prefix::{BLOCK_TOKENS, Content, Facts, Fingerprint, Folder, Id, Listed, Lost, Plane, chain};

/// Where the writing process writes; also what tells it that it is one.
const FOLDER_VARIABLE: &str = "PREFIX_TEST_FOLDER";
const SEED_VARIABLE: &str = "PREFIX_TEST_SEED";
const KILLS: u64 = 500;
/// Kills after which the store is thrown away: a real one does not grow forever either.
const KILLS_A_STORE: u64 = 25;

fn fingerprint() -> Fingerprint {
    Fingerprint::of([("model", &b"m"[..])])
}

/// Entry `n` of a seed; its content follows from it.
fn entry(seed: u64, n: u64) -> (Id, Facts, Vec<u8>) {
    let token = i32::try_from(seed * 10_000 + n).unwrap();
    let key = chain(&fingerprint(), &[token; BLOCK_TOKENS])[0];
    let plane = Plane::ALL[usize::try_from(n % 3).unwrap()];
    let len = usize::try_from(1000 + 37 * n % 40_000).unwrap();
    let content: Vec<u8> = key.0.iter().copied().cycle().take(len).collect();
    let facts = Facts {
        depth: u32::try_from(n).unwrap(),
        bytes: content.len() as u64,
        cost_us: 7,
    };
    (Id { key, plane }, facts, content)
}

/// The process that is killed. In an ordinary run of the tests it does nothing.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(FOLDER_VARIABLE) else {
        return;
    };
    let seed = std::env::var(SEED_VARIABLE).unwrap().parse().unwrap();
    let folder = Folder::open(Path::new(&folder)).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nbegin").unwrap();
    for n in 0.. {
        let (id, facts, content) = entry(seed, n);
        folder
            .write(&fingerprint(), (id, &facts), &content)
            .unwrap();
        folder.wear(facts.bytes, 1 << 30).unwrap();
        writeln!(out, "wrote {n}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the writer, kills it some time after its first write, and gives the entries that it
/// has said are written.
fn write_and_kill(root: &Path, seed: u64) -> BTreeSet<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer_process", "--nocapture"])
        .env(FOLDER_VARIABLE, root)
        .env(SEED_VARIABLE, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wrote = BTreeSet::new();
    let mut note = |line: String| {
        let n: Option<u64> = line.strip_prefix("wrote ").and_then(|n| n.parse().ok());
        wrote.extend(n);
    };
    for line in lines.by_ref().map_while(Result::ok) {
        if line == "begin" {
            break;
        }
    }
    // From the middle of the first write to that of the tenth or so.
    std::thread::sleep(Duration::from_micros(seed * 7919 % 12_000));
    child.kill().unwrap();
    child.wait().unwrap();
    lines.map_while(Result::ok).for_each(&mut note);
    wrote
}

fn read(folder: &Folder, listed: &Listed) -> Result<Vec<u8>, Lost> {
    let file = folder.read(&listed.fingerprint, listed.id, &listed.facts)?;
    Ok(Content::of_file(file).to_vec())
}

/// Five hundred kills: what was said to be written is there, and nothing else is wrong.
#[test]
fn a_kill_during_a_write_costs_that_write_at_most() {
    let mut n_wrote = 0;
    for store in 0..KILLS / KILLS_A_STORE {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("prompts");
        for seed in store * KILLS_A_STORE..(store + 1) * KILLS_A_STORE {
            let wrote = write_and_kill(&root, seed);
            n_wrote += wrote.len();
            let folder = Folder::open(&root).unwrap();
            let listed = folder.list().unwrap();
            for n in &wrote {
                let (id, facts, content) = entry(seed, *n);
                let one = listed.iter().find(|one| one.id == id && one.facts == facts);
                let one = one.unwrap_or_else(|| panic!("entry {n} of {seed} is lost"));
                assert_eq!(read(&folder, one).unwrap(), content);
            }
            // One may be there that was not yet said to be.
            let of_seed = (0..).map(|n| entry(seed, n).0).take(wrote.len() + 1);
            let known: Vec<Id> = of_seed.collect();
            let of_this = listed.iter().filter(|one| known.contains(&one.id));
            let n_of_this = of_this.count();
            assert!(
                n_of_this <= wrote.len() + 1,
                "{n_of_this} of {}",
                wrote.len()
            );
            assert!(folder.wear(0, 1 << 30).unwrap().bytes >= 0.0);
        }
    }
    assert!(
        n_wrote > 500,
        "the writer was killed before it wrote anything: {n_wrote}"
    );
}

/// A power cut leaves less of a file than was written, or zeros; a disk changes bits.
#[test]
fn what_a_power_cut_or_a_disk_has_spoilt_is_told_and_deleted() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::open(home.path()).unwrap();
    let spoil: [fn(&Path); 6] = [
        |path| fs::write(path, []).unwrap(),
        |path| cut(path, 50),
        |path| cut(path, HEADER_BYTES),
        |path| cut(path, HEADER_BYTES + 500),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let from = bytes.len() / 2;
            bytes[from..].fill(0);
            fs::write(path, bytes).unwrap();
        },
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let at = bytes.len() - 1;
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        },
    ];
    for (n, spoil) in (0..).zip(spoil) {
        let (id, facts, content) = entry(1, n);
        folder
            .write(&fingerprint(), (id, &facts), &content)
            .unwrap();
        let path = only_file(&home.path().join(fingerprint().to_string()));
        spoil(&path);
        let lost = folder.read(&fingerprint(), id, &facts).unwrap_err();
        assert!(matches!(lost, Lost::Faulty(_)), "case {n}: {lost}");
        assert!(!path.exists(), "case {n}");
        let lost = folder.read(&fingerprint(), id, &facts).unwrap_err();
        assert!(matches!(lost, Lost::Gone), "case {n}: {lost}");
    }
}

fn cut(path: &Path, len: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len as u64).unwrap();
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().flatten().collect();
    assert_eq!(files.len(), 1);
    files.remove(0).path()
}

#[test]
fn strangers_are_left_alone_and_never_read() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::open(home.path()).unwrap();
    let (id, facts, content) = entry(2, 0);
    folder
        .write(&fingerprint(), (id, &facts), &content)
        .unwrap();
    let of_model = home.path().join(fingerprint().to_string());
    let key = id.key;
    // A name as an entry has it, of what is none.
    fs::create_dir(of_model.join(format!("{key}.w.0.1"))).unwrap();
    std::os::unix::fs::symlink("/dev/zero", of_model.join(format!("{key}.s.0.1"))).unwrap();
    for name in [
        "notes.txt",
        "..",
        "x.r.0.1",
        &format!("{key}.q.0.1"),
        &format!("{key}.r.0.1.2"),
    ] {
        let _ = fs::write(of_model.join(name), b"mine");
    }
    for name in [
        format!("{key}.r.-1.1"),
        format!("{key}.r.99999999999.1"),
        format!("{key}.r.0"),
    ] {
        fs::write(of_model.join(name), b"mine").unwrap();
    }
    fs::write(home.path().join("readme"), b"mine").unwrap();
    fs::write(home.path().join("written"), b"many\xff bytes").unwrap();
    fs::create_dir(home.path().join("f".repeat(64))).unwrap();
    let listed = folder.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(read(&folder, &listed[0]).unwrap(), content);
    assert_eq!(folder.wear(5, 1000).unwrap().bytes, 5.0);
    assert!(of_model.join("notes.txt").exists());
    for (plane, cost_us) in [(Plane::State, 1), (Plane::Window, 1)] {
        let id = Id { key, plane };
        let facts = Facts {
            cost_us,
            depth: 0,
            bytes: 10,
        };
        let lost = folder.read(&fingerprint(), id, &facts).unwrap_err();
        assert!(matches!(lost, Lost::Faulty(Fault::Foreign)), "{lost}");
    }
}

#[test]
fn an_entry_of_another_model_is_no_answer() {
    let home = tempfile::tempdir().unwrap();
    let folder = Folder::open(home.path()).unwrap();
    let (id, facts, content) = entry(3, 0);
    folder
        .write(&fingerprint(), (id, &facts), &content)
        .unwrap();
    let other = Fingerprint::of([("model", &b"n"[..])]);
    let from = home.path().join(fingerprint().to_string());
    fs::rename(from, home.path().join(other.to_string())).unwrap();
    let lost = folder.read(&other, id, &facts).unwrap_err();
    assert!(matches!(lost, Lost::Faulty(Fault::Misplaced)), "{lost}");
}

#[test]
fn what_is_written_in_a_day_is_counted_over_processes() {
    let home = tempfile::tempdir().unwrap();
    let (one, two) = (
        Folder::open(home.path()).unwrap(),
        Folder::open(home.path()).unwrap(),
    );
    one.wear(700, 1000).unwrap();
    let after = two.wear(200, 1000).unwrap();
    assert!((899.0..=900.0).contains(&after.bytes), "{after:?}");
    let half_a_day = after.at_secs + 43_200.0;
    assert!((399.0..=400.0).contains(&after.left(half_a_day, 1000)));
}

#[test]
fn the_folder_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("a/b");
    let folder = Folder::open(&root).unwrap();
    let (id, facts, content) = entry(4, 0);
    folder
        .write(&fingerprint(), (id, &facts), &content)
        .unwrap();
    let of_model = root.join(fingerprint().to_string());
    for (path, mode) in [
        (&root, 0o700),
        (&of_model, 0o700),
        (&only_file(&of_model), 0o600),
    ] {
        let has = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(has & 0o777, mode, "{}", path.display());
    }
}
