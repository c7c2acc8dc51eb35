//! A comparison as a table.

use proto::{CompareKind, CompareReport, CompareRow, DivergenceFacts};

use crate::outcome::Outcome;
use crate::output::{line, table};

const HEAD: [&str; 11] = [
    "plan",
    "bytes/token",
    "mean KLD",
    "above floor",
    "median",
    "99 %",
    "99.9 %",
    "same top",
    "perplexity ratio",
    "first difference",
    "prefill, decode t/s",
];

pub(super) fn write(report: &CompareReport, answer_tokens: u32) -> Outcome {
    table(&HEAD, &rows(report, answer_tokens))?;
    line("")?;
    line(&format!(
        "{} positions in {} pieces. KLD is the divergence from f16, in nats; +- is one standard \
         error, over pieces.",
        report.positions, report.pieces
    ))?;
    line(match floor(report) {
        Some(_) => {
            "floor: f16 with the last bit of half of its keys and values changed; what is not above \
             it is rounding that the model enlarges."
        }
        None => "The floor is not known: states of this model cannot be taken apart.",
    })?;
    line("Speeds are of this run alone, with all plans in memory; `sextant tune` measures them.")?;
    Ok(())
}

fn floor(report: &CompareReport) -> Option<&DivergenceFacts> {
    let mut rows = report.rows.iter();
    let floor = rows.find(|row| row.kind == CompareKind::Floor)?;
    floor.divergence.as_ref()
}

fn rows(report: &CompareReport, answer_tokens: u32) -> Vec<Vec<String>> {
    let floor = floor(report);
    let rows = report.rows.iter();
    rows.map(|row| cells(row, floor, answer_tokens)).collect()
}

fn cells(row: &CompareRow, floor: Option<&DivergenceFacts>, answer_tokens: u32) -> Vec<String> {
    let name = match row.kind {
        CompareKind::Floor => "floor".to_owned(),
        CompareKind::Base | CompareKind::Plan => row.plan.clone(),
    };
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.0}"));
    let speeds = format!("{}, {}", rate(row.prefill_tps), rate(row.decode_tps));
    let mut cells = vec![name, row.token_bytes.to_string()];
    match &row.divergence {
        None => cells.extend(["-"; 8].map(str::to_owned)),
        Some(of) => cells.extend([
            with_error(of.kld_mean, of.kld_mean_error, 5),
            match (row.kind, floor) {
                (CompareKind::Plan, Some(floor)) => above(of, floor),
                _ => "-".to_owned(),
            },
            format!("{:.5}", of.kld_median),
            format!("{:.4}", of.kld_p99),
            format!("{:.3}", of.kld_p999),
            format!(
                "{} %",
                with_error(100.0 * of.top1, of.top1_error.map(|one| 100.0 * one), 1)
            ),
            with_error(of.perplexity_ratio, of.perplexity_ratio_error, 4),
            first_difference(of, answer_tokens),
        ]),
    }
    cells.push(speeds);
    cells
}

/// By how much the mean is above the floor's, where that is more than two standard errors of both.
pub(super) fn above(of: &DivergenceFacts, floor: &DivergenceFacts) -> String {
    let excess = of.kld_mean - floor.kld_mean;
    let square = |error: Option<f64>| error.unwrap_or(0.0).powi(2);
    let error = (square(of.kld_mean_error) + square(floor.kld_mean_error)).sqrt();
    if excess > 2.0 * error {
        format!("{excess:.5}")
    } else {
        "within noise".to_owned()
    }
}

pub(super) fn with_error(value: f64, error: Option<f64>, digits: usize) -> String {
    match error {
        Some(error) => format!("{value:.digits$} +-{error:.digits$}"),
        None => format!("{value:.digits$}"),
    }
}

/// The middle of the first tokens that differ; those that do not, differ later.
fn first_difference(of: &DivergenceFacts, answer_tokens: u32) -> String {
    let mut places = of.first_differences.clone();
    places.sort_unstable_by_key(|place| place.unwrap_or(u32::MAX));
    let same = places.iter().filter(|place| place.is_none()).count();
    let middle = match places.get(places.len() / 2).copied().flatten() {
        Some(place) => format!("token {place}"),
        None => format!("after {answer_tokens}"),
    };
    format!("{middle}; none in {same} of {}", places.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kld_mean: f64, error: f64) -> DivergenceFacts {
        DivergenceFacts {
            kld_mean,
            kld_mean_error: Some(error),
            ..DivergenceFacts::default()
        }
    }

    #[test]
    fn what_is_within_the_error_of_both_is_noise() {
        let floor = facts(0.0034, 0.0003);
        assert_eq!(above(&facts(0.0042, 0.0004), &floor), "within noise");
        assert_eq!(above(&facts(0.0045, 0.0004), &floor), "0.00110");
    }

    #[test]
    fn texts_without_a_difference_count_as_later_ones() {
        let of = |places: &[Option<u32>]| DivergenceFacts {
            first_differences: places.to_vec(),
            ..DivergenceFacts::default()
        };
        let middle = first_difference(&of(&[None, Some(9), Some(3)]), 64);
        assert_eq!(middle, "token 9; none in 1 of 3");
        let middle = first_difference(&of(&[None, None, Some(3)]), 64);
        assert_eq!(middle, "after 64; none in 2 of 3");
    }
}
