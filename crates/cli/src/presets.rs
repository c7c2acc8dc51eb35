//! `sextant presets`: a model for every day and a strong one, of those that are here.

use clap::ArgMatches;
use config::Config;
use gateway::{PlanAsk, Planned};
use hardware::{Machine, Root, Tier};
use models::{Environment, Found};
use planner::preset::{Candidate, Preset, choose, presets};
use planner::{Band, Fit};
use serde_json::{Value, json};
use stdx::Bytes;

use crate::outcome::Outcome;
use crate::{configuration, models_here, output, plan};

/// A preset with the model it would use.
pub(crate) struct Chosen {
    preset: Preset,
    model: Option<Use>,
}

/// A model as a preset uses it.
struct Use {
    found: Found,
    planned: Planned,
    context: u32,
}

impl Use {
    fn decode(&self) -> f64 {
        let Band { low, high } = self.planned.speed.decode;
        f64::midpoint(low, high)
    }

    fn candidate(&self) -> Candidate {
        Candidate {
            fits: self.planned.answer.fit == Fit::Fast,
            n_weights: self.found.n_parameters.unwrap_or(self.found.bytes.0),
            decode: self.decode(),
        }
    }
}

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read(matches)?;
    let environment = models_here::environment(&config);
    let tier = Machine::read(&Root::live()).tier;
    let models = models::list(&environment);
    let chosen = of_tier(tier, &config, (&environment, &models));
    if output::wants_json(matches) {
        let each = chosen.iter().map(as_json);
        let value = json!({ "tier": tier.name(), "presets": each.collect::<Vec<_>>() });
        output::json(&value)?;
        return Ok(());
    }
    if matches.get_flag("toml") {
        output::piece(&toml(&chosen))?;
        return Ok(());
    }
    output::line(&format!(
        "machine   {}: {}",
        tier.name(),
        tier.description()
    ))?;
    if let Some(first) = chosen.iter().find_map(|chosen| chosen.model.as_ref()) {
        let Planned {
            machine,
            machine_source,
            ..
        } = &first.planned;
        output::line(&format!("speeds    on {machine} ({machine_source})"))?;
    }
    for chosen in &chosen {
        write(chosen)?;
    }
    Ok(())
}

/// The presets of this machine with the models that they would use, of those that are here.
pub(crate) fn chosen(config: &Config, environment: &Environment, models: &[Found]) -> Vec<Chosen> {
    let tier = Machine::read(&Root::live()).tier;
    of_tier(tier, config, (environment, models))
}

fn of_tier(
    tier: Tier,
    config: &Config,
    (environment, models): (&Environment, &[Found]),
) -> Vec<Chosen> {
    let each = presets(tier).into_iter().map(|preset| {
        let mut uses = uses(config, environment, models, &preset);
        let candidates: Vec<_> = uses.iter().map(Use::candidate).collect();
        let model = choose(&preset, &candidates).map(|place| uses.swap_remove(place));
        Chosen { preset, model }
    });
    each.collect()
}

impl Chosen {
    /// The preset in a sentence; `None` where no model here is for it.
    pub(crate) fn sentence(&self) -> Option<String> {
        let used = self.model.as_ref()?;
        let decode = used.decode();
        let needs = Bytes(used.planned.answer.ledger.host_needed());
        Some(format!(
            "{}: {}, about {decode:.0} tokens/s, {needs} of memory",
            self.preset.purpose.name(),
            used.found.id
        ))
    }
}

/// The models that generate text, each planned as the preset would load it. What cannot be
/// planned is left out.
fn uses(config: &Config, environment: &Environment, models: &[Found], preset: &Preset) -> Vec<Use> {
    let usable = models.iter().filter(|found| found.fault.is_none());
    let each = usable.filter_map(|found| {
        let trained = found.context_length.and_then(|it| u32::try_from(it).ok());
        let context = trained.map_or(preset.context, |it| it.min(preset.context));
        let ask = PlanAsk {
            model: found.path.to_string_lossy().into_owned(),
            context: Some(context),
            slots: Some(preset.slots),
            kv_type_k: Some(preset.types.keys.name().to_owned()),
            kv_type_v: Some(preset.types.values.name().to_owned()),
            ..PlanAsk::default()
        };
        let planned = plan::planned(config, environment, &ask).ok()?;
        Some(Use {
            found: found.clone(),
            planned,
            context,
        })
    });
    each.filter(|used| !used.is_embedder()).collect()
}

impl Use {
    fn is_embedder(&self) -> bool {
        models::diagnose(&self.found.path).is_ok_and(|facts| facts.is_embedder)
    }
}

fn write(Chosen { preset, model }: &Chosen) -> Outcome {
    let name = preset.purpose.name();
    let Some(used) = model else {
        output::line(&format!(
            "{name:<9} no model here fits; `sextant plan hf:OWNER/REPO` tells of others"
        ))?;
        return Ok(());
    };
    let (decode, needs) = (used.decode(), used.planned.answer.ledger.host_needed());
    output::line(&format!(
        "{name:<9} {}, about {decode:.0} tokens/s, {} of memory",
        used.found.id,
        Bytes(needs)
    ))?;
    output::line(&format!(
        "          context {}, {}, KV {}/{}",
        used.context,
        slots(preset.slots),
        preset.types.keys,
        preset.types.values
    ))?;
    let thinking = match preset.reasoning_budget {
        None => "thinking without a limit".to_owned(),
        Some(0) => "no thinking unless asked for".to_owned(),
        Some(budget) => format!("thoughts of {budget} tokens at most"),
    };
    output::line(&format!("          {thinking}"))?;
    output::line(&format!("          {}", preset.reason))?;
    if decode < preset.decode_min {
        output::line(&format!(
            "          none here reaches {} tokens/s, which this preset asks for",
            preset.decode_min
        ))?;
    }
    Ok(())
}

pub(crate) fn as_json(Chosen { preset, model }: &Chosen) -> Value {
    let used = model.as_ref().map(|used| {
        let Band { low, high } = used.planned.speed.decode;
        json!({
            "id": used.found.id,
            "path": used.found.path,
            "context": used.context,
            "memory_bytes": used.planned.answer.ledger.host_needed(),
            "decode": { "low": low, "high": high },
        })
    });
    json!({
        "name": preset.purpose.name(),
        "model": used,
        "context": preset.context,
        "slots": preset.slots,
        "kv_type_k": preset.types.keys.name(),
        "kv_type_v": preset.types.values.name(),
        "reasoning_budget": preset.reasoning_budget,
        "decode_min": preset.decode_min,
        "reason": preset.reason,
    })
}

/// The presets that have a model, as tables for the configuration file.
pub(crate) fn toml(chosen: &[Chosen]) -> String {
    let mut tables = String::new();
    for Chosen { preset, model } in chosen {
        let Some(used) = model else { continue };
        let text = |value: &str| Value::from(value).to_string();
        tables.push_str(&format!("# {}\n[[models]]\n", preset.reason));
        let budget = preset.reasoning_budget.map(|budget| budget.to_string());
        let settings = [
            ("name", text(preset.purpose.name())),
            ("model", text(&used.found.path.to_string_lossy())),
            ("context", used.context.to_string()),
            ("slots", preset.slots.to_string()),
            ("kv_type_k", text(preset.types.keys.name())),
            ("kv_type_v", text(preset.types.values.name())),
        ];
        let budget = budget.map(|budget| ("reasoning_budget", budget));
        for (key, value) in settings.into_iter().chain(budget) {
            tables.push_str(&format!("{key} = {value}\n"));
        }
        tables.push('\n');
    }
    tables
}

fn slots(n_slots: u32) -> String {
    match n_slots {
        1 => "1 slot".to_owned(),
        n => format!("{n} slots"),
    }
}
