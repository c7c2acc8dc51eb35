//! The settings of an engine for a load: a command, and lines of the configuration file.

use planner::Answer;
use planner::advise::{Chosen, Engine};
use serde_json::Value;

use super::Advice;

/// Most slots that our engine takes.
const SLOTS_MAX: u32 = planner::SLOTS_MAX;

/// How an engine is started, and how Sextant gets to know of it.
pub(super) struct Settings {
    pub(super) command: Vec<String>,
    pub(super) toml: String,
}

pub(super) fn of(engine: Engine, advice: &Advice) -> Settings {
    match engine {
        Engine::Embedded => embedded(advice),
        Engine::LlamaServer => llama_server(advice),
        Engine::Vllm => vllm(advice),
        Engine::Sglang => sglang(advice),
        Engine::Ollama => ollama(advice),
    }
}

/// A text or a list as TOML writes it.
fn quoted(value: impl Into<Value>) -> String {
    value.into().to_string()
}

fn model(advice: &Advice) -> String {
    advice.premises.name.clone()
}

fn path(advice: &Advice) -> String {
    advice.premises.spec.path.display().to_string()
}

/// Types that were chosen or set, where they are one pair.
fn types(answer: &Answer) -> Option<(String, String)> {
    let types = answer
        .plan
        .uniform_types()
        .or(answer.setup.types.as_uniform())?;
    Some((types.keys.to_string(), types.values.to_string()))
}

fn embedded(advice: &Advice) -> Settings {
    let (room, load) = (&advice.room, &advice.load);
    let context = room.answer.setup.context.min(room.pool_max);
    let slots = load.users.min(SLOTS_MAX);
    let mut pairs = vec![
        ("context", context.to_string(), context.to_string()),
        ("slots", slots.to_string(), slots.to_string()),
    ];
    let text = |word: &str| (word.to_owned(), quoted(word));
    for chosen in &room.chosen {
        match chosen {
            Chosen::Types(types) => {
                let (keys, values) = (types.keys.to_string(), types.values.to_string());
                let ((keys, k), (values, v)) = (text(&keys), text(&values));
                pairs.extend([("kv_type_k", keys, k), ("kv_type_v", values, v)]);
            }
            Chosen::Sequences(n) => pairs.push(("sequences", n.to_string(), n.to_string())),
            Chosen::GgmlKernels => {
                let (word, quoted) = text("ggml");
                pairs.push(("kernels", word, quoted));
            }
        }
    }
    let mut command = vec!["sextant".to_owned(), "serve".to_owned(), model(advice)];
    let mut toml = format!(
        "[[models]]\nname = {}\nmodel = {}\n",
        quoted(model(advice)),
        quoted(path(advice))
    );
    for (name, plain, quoted) in pairs {
        command.extend([format!("--{}", name.replace('_', "-")), plain]);
        toml.push_str(&format!("{name} = {quoted}\n"));
    }
    Settings { command, toml }
}

fn llama_server(advice: &Advice) -> Settings {
    let (answer, load) = (&advice.room.answer, &advice.load);
    let count = |n: u32| n.to_string();
    let mut command: Vec<String> = ["llama-server", "--model", &path(advice)]
        .map(str::to_owned)
        .to_vec();
    command.extend([
        "--ctx-size".to_owned(),
        count(answer.setup.context),
        "--parallel".to_owned(),
        count(load.users),
        // Each user has a part of the cache that nobody else takes.
        "--no-kv-unified".to_owned(),
    ]);
    if let Some((keys, values)) =
        types(answer).filter(|(keys, values)| keys != "f16" || values != "f16")
    {
        let flags = [
            "--cache-type-k",
            &keys,
            "--cache-type-v",
            &values,
            "--flash-attn",
            "on",
        ];
        command.extend(flags.map(str::to_owned));
    }
    if answer.setup.gpu_layers > 0 {
        command.extend(["--n-gpu-layers".to_owned(), count(answer.setup.gpu_layers)]);
    }
    // On a board all cores are not the ones to take, and there is no memory for 8 GiB of prompts.
    if advice.site.class == planner::Class::Board {
        let threads = advice.premises.spec.threads;
        command.extend(
            threads
                .map(|n| ["--threads".to_owned(), count(n)])
                .into_iter()
                .flatten(),
        );
        command.extend(["--cache-ram", "0"].map(str::to_owned));
    }
    let toml = format!(
        "[[providers]]\nname = \"llama\"\nkind = \"llama-server\"\ncommand = {}\nrequests_max = {}\n",
        quoted(command.clone()),
        load.users
    );
    Settings { command, toml }
}

fn provider(name: &str, kind: &str, port: u16, users: u32) -> String {
    format!(
        "[[providers]]\nname = {}\nkind = {}\nurl = \"http://127.0.0.1:{port}\"\nrequests_max = {users}\n",
        quoted(name),
        quoted(kind)
    )
}

fn vllm(advice: &Advice) -> Settings {
    let load = &advice.load;
    let command = [
        "vllm",
        "serve",
        &path(advice),
        "--max-model-len",
        &load.context.to_string(),
        "--max-num-seqs",
        &load.users.to_string(),
        "--gpu-memory-utilization",
        "0.9",
    ];
    Settings {
        command: command.map(str::to_owned).to_vec(),
        toml: provider("vllm", "vllm", 8000, load.users),
    }
}

fn sglang(advice: &Advice) -> Settings {
    let load = &advice.load;
    let command = [
        "sglang",
        "serve",
        "--model-path",
        &path(advice),
        "--context-length",
        &load.context.to_string(),
        "--max-running-requests",
        &load.users.to_string(),
    ];
    Settings {
        command: command.map(str::to_owned).to_vec(),
        toml: provider("sglang", "openai", 30_000, load.users),
    }
}

fn ollama(advice: &Advice) -> Settings {
    let load = &advice.load;
    let mut command = vec![
        "env".to_owned(),
        format!("OLLAMA_NUM_PARALLEL={}", load.users),
        format!("OLLAMA_CONTEXT_LENGTH={}", load.context),
    ];
    // It has one type for keys and values.
    if let Some((keys, _)) = types(&advice.room.answer).filter(|(keys, _)| keys != "f16") {
        command.push("OLLAMA_FLASH_ATTENTION=1".to_owned());
        command.push(format!("OLLAMA_KV_CACHE_TYPE={keys}"));
    }
    command.extend(["ollama", "serve"].map(str::to_owned));
    Settings {
        command,
        toml: provider("ollama", "ollama", 11_434, load.users),
    }
}

/// A command as a shell takes it.
pub(super) fn shell(command: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c);
    let words = command
        .iter()
        .map(|word| match word.chars().all(plain) && !word.is_empty() {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether a tuning will be used by itself.
pub(super) fn is_tuned(advice: &Advice) -> bool {
    !advice.premises.spec.tuned.is_empty()
}
