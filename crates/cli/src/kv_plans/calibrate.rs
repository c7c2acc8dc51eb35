//! `sextant kv calibrate`: the plan of least loss for a budget of bytes, by measurement.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use proto::{
    BudgetFacts, CalibrateReport, CalibrateRequest, DivergenceFacts, GainFacts, TensorFacts,
    VerifyKind, VerifyRow,
};

use crate::args;
use crate::outcome::{Code, Outcome, WithCode};
use crate::output::{self, line, table};

use super::text::{above, with_error};
use super::{child, given, number, piece_tokens, spec, text_argument, text_of};

const TASK: child::Task = child::Task {
    flag: "--calibrate",
    doing: "calibrating",
    smaller: "shorter pieces",
};
/// In which the table of layers tells what they lose.
const SHOWN_TYPE: &str = "q4_0";

pub(super) fn command() -> Command {
    Command::new("calibrate")
        .about("Find the types of each layer that lose least for a budget, and judge them")
        .arg(args::model().required(true))
        .arg(
            Arg::new("budget")
                .long("budget")
                .value_name("BUDGET")
                .required(true)
                .action(ArgAction::Append)
                .help(
                    "Bytes a token such as 7200, a share of what f16 takes such as 0.4, or a pair of \
                     types such as q8_0/q4_0 whose bytes it is; may be given again",
                ),
        )
        .arg(text_argument())
        .arg(number("tokens", "16384", 256, 1 << 24).help(
            "Most tokens of the text: some pieces of it measure, the others judge",
        ))
        .arg(piece_tokens())
        .arg(
            Arg::new("controls")
                .long("controls")
                .action(ArgAction::SetTrue)
                .help(
                    "Also judge plans that should be worse: the first layers in 8 bits, and layers \
                     chosen by chance and the wrong way round",
                ),
        )
        .arg(args::json())
}

pub(super) fn run(matches: &ArgMatches) -> Outcome {
    let budgets = matches.get_many::<String>("budget");
    let piece_tokens = given(matches, "piece_tokens");
    let request = CalibrateRequest {
        spec: spec(matches)?,
        budgets: budgets.map_or_else(Vec::new, |given| given.cloned().collect()),
        text: text_of(matches.get_one::<PathBuf>("text"))?,
        piece_tokens,
        pieces_max: given(matches, "tokens") / piece_tokens.max(1),
        with_controls: matches.get_flag("controls"),
    };
    // What cannot be read is told before a model is loaded.
    for budget in &request.budgets {
        budget.parse::<kv::calibrate::Budget>().code(Code::Usage)?;
    }
    let report: CalibrateReport = child::ask(TASK, &request).code(Code::LoadFailed)?;
    if output::wants_json(matches) {
        return Ok(output::json(&serde_json::to_value(report)?)?);
    }
    write(&report)
}

fn write(report: &CalibrateReport) -> Outcome {
    let head = ["layer", "keys in q4_0", "values in q4_0"];
    table(&head, &layers(&report.tensors))?;
    line("")?;
    line(&format!(
        "What they add to the KLD from f16 above the floor of the layer, in nats; +- is one standard \
         error. Measured in {:.0} s on {} positions in {} pieces, judged in {:.0} s on {} in {} \
         others. f16 takes {} bytes a token.",
        report.measure_seconds,
        report.measured.positions,
        report.measured.pieces,
        report.verify_seconds,
        report.held_out.positions,
        report.held_out.pieces,
        report.f16_bytes,
    ))?;
    for budget in &report.budgets {
        write_budget(budget)?;
    }
    Ok(())
}

/// A line for each layer.
fn layers(tensors: &[TensorFacts]) -> Vec<Vec<String>> {
    let mut layers: Vec<u32> = tensors.iter().map(|one| one.layer).collect();
    layers.dedup();
    let cell = |layer: u32, side: &str| {
        let is_it = |one: &&TensorFacts| one.layer == layer && one.side == side;
        let of = tensors.iter().find(is_it);
        let mut types = of.iter().flat_map(|of| &of.types);
        let of = types.find(|of| of.cache_type == SHOWN_TYPE);
        of.map_or("-".to_owned(), |of| with_error(of.excess, of.error, 6))
    };
    let rows = layers.into_iter();
    rows.map(|layer| vec![layer.to_string(), cell(layer, "k"), cell(layer, "v")])
        .collect()
}

fn write_budget(of: &BudgetFacts) -> Outcome {
    const HEAD: [&str; 9] = [
        "",
        "bytes/token",
        "predicted",
        "mean KLD",
        "above floor",
        "99 %",
        "same top",
        "perplexity ratio",
        "plan",
    ];
    line("")?;
    line(&format!(
        "Budget {}: at most {} bytes a token",
        of.budget, of.bytes
    ))?;
    line("")?;
    let floor = of.rows.iter().find(|row| row.kind == VerifyKind::Floor);
    let floor = floor.map(|row| &row.divergence);
    let rows = of.rows.iter().map(|row| cells(row, floor));
    table(&HEAD, &rows.collect::<Vec<_>>())?;
    line("")?;
    line(&verdict(of))?;
    line(&format!("kv_plan = \"{}\"", of.plan))?;
    Ok(())
}

fn cells(row: &VerifyRow, floor: Option<&DivergenceFacts>) -> Vec<String> {
    let name = match row.kind {
        VerifyKind::Floor => "floor",
        VerifyKind::Calibrated => "calibrated",
        VerifyKind::Uniform => "one pair",
        VerifyKind::FirstLayers => "first layers",
        VerifyKind::Random => "random",
        VerifyKind::Inverted => "inverted",
    };
    let of = &row.divergence;
    let above = match (row.kind, floor) {
        (VerifyKind::Floor, _) | (_, None) => "-".to_owned(),
        (_, Some(floor)) => above(of, floor),
    };
    let predicted = row.predicted.map(|excess| format!("{excess:.5}"));
    vec![
        name.to_owned(),
        row.token_bytes.to_string(),
        predicted.unwrap_or_else(|| "-".to_owned()),
        with_error(of.kld_mean, of.kld_mean_error, 5),
        above,
        format!("{:.4}", of.kld_p99),
        format!("{:.1} %", 100.0 * of.top1),
        with_error(of.perplexity_ratio, of.perplexity_ratio_error, 4),
        row.plan.clone(),
    ]
}

fn verdict(of: &BudgetFacts) -> String {
    let Some(uniform) = &of.uniform else {
        return "No pair of types for all layers is within the budget; the calibrated plan is all \
                that there is."
            .to_owned();
    };
    let interval = of.gain.map_or_else(String::new, |gain| interval(&gain));
    match of.is_calibrated {
        true => format!(
            "The calibrated plan is nearer to f16 than the best pair, `{uniform}`: its KLD is less \
             by {interval}."
        ),
        false => format!(
            "The calibrated plan is not shown to be nearer to f16 than the best pair, `{uniform}`: \
             its KLD is less by {interval}. So the pair is what to set; longer texts (`--text`, \
             `--tokens`) tell smaller differences."
        ),
    }
}

fn interval(gain: &GainFacts) -> String {
    match (gain.low, gain.high) {
        (Some(low), Some(high)) => format!(
            "{:.5} nats (95 %: {low:.5} to {high:.5}), over the same positions",
            gain.mean
        ),
        _ => format!("{:.5} nats", gain.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(is_calibrated: bool, uniform: Option<&str>, low: f64) -> BudgetFacts {
        BudgetFacts {
            is_calibrated,
            uniform: uniform.map(str::to_owned),
            gain: uniform.map(|_| GainFacts {
                mean: 0.0012,
                low: Some(low),
                high: Some(0.002),
            }),
            ..BudgetFacts::default()
        }
    }

    #[test]
    fn a_plan_that_does_not_win_is_said_not_to() {
        let won = verdict(&facts(true, Some("k=q5_0,v=q4_0"), 0.0004));
        assert!(
            won.contains("is nearer") && won.contains("0.00040 to 0.00200"),
            "{won}"
        );
        let lost = verdict(&facts(false, Some("k=q5_0,v=q4_0"), -0.0004));
        assert!(
            lost.contains("not shown") && lost.contains("-0.00040 to"),
            "{lost}"
        );
        let alone = verdict(&facts(true, None, 0.0));
        assert!(alone.contains("No pair"), "{alone}");
    }

    #[test]
    fn a_layer_is_a_line() {
        let tensor = |layer, side: &str, excess| TensorFacts {
            layer,
            side: side.to_owned(),
            types: vec![proto::TypeFacts {
                cache_type: SHOWN_TYPE.to_owned(),
                excess,
                ..proto::TypeFacts::default()
            }],
            ..TensorFacts::default()
        };
        let rows = layers(&[
            tensor(0, "k", 0.25),
            tensor(0, "v", 0.5),
            tensor(3, "k", 1.0),
        ]);
        assert_eq!(rows[0], ["0", "0.250000", "0.500000"]);
        assert_eq!(rows[1], ["3", "1.000000", "-"]);
    }
}
