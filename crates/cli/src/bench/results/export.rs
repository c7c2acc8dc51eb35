//! Results for other programs: lines of JSON, which [`super::import`] reads again, or a table in CSV.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Map, Value, json};
use store::{RESULTS_VERSION, ResultRun, ResultsSession};

use super::keep::is_origin;
use crate::outcome::Outcome;

/// Each run as a line, and behind it its records, each as it was written.
pub(super) fn jsonl(session: &ResultsSession, runs: &[ResultRun], out: &mut impl Write) -> Outcome {
    for run in runs {
        let line = json!({ "schema": RESULTS_VERSION, "run": run });
        writeln!(out, "{line}")?;
        for record in session.records(&run.id)? {
            writeln!(out, "{}{record}}}", before_record(&run.id))?;
        }
    }
    Ok(())
}

/// What stands before a record. The record is not written anew, since its numbers are those by
/// which its run is known.
fn before_record(id: &str) -> String {
    format!("{{\"of\":{},\"record\":", Value::from(id))
}

/// The record of a line, if it is one of this run.
pub(super) fn record_of<'a>(line: &'a str, id: &str) -> Option<&'a str> {
    let record = line.strip_prefix(&before_record(id))?;
    record.strip_suffix('}')
}

/// A row for each record, with a column for whatever any of them has; lists and objects stay JSON.
pub(super) fn csv(session: &ResultsSession, runs: &[ResultRun], out: &mut impl Write) -> Outcome {
    let mut columns: Vec<String> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let each_record = |take: &mut dyn FnMut(&ResultRun, Map<String, Value>) -> Outcome| {
        for run in runs {
            for record in session.records(&run.id)? {
                if is_origin(&record) {
                    continue;
                }
                // Only objects are kept.
                if let Ok(Value::Object(fields)) = serde_json::from_str(&record) {
                    take(run, fields)?;
                }
            }
        }
        Ok::<(), crate::outcome::Fault>(())
    };
    each_record(&mut |_, fields| {
        for name in fields.keys() {
            if !places.contains_key(name) {
                places.insert(name.clone(), columns.len());
                columns.push(name.clone());
            }
        }
        Ok(())
    })?;
    let mut writer = csv::Writer::from_writer(out);
    let told = |error: csv::Error| io::Error::from(error);
    let head = ["run", "kind", "began"].into_iter();
    writer
        .write_record(head.chain(columns.iter().map(String::as_str)))
        .map_err(told)?;
    each_record(&mut |run, fields| {
        let mut row = vec![run.id.clone(), run.kind.clone(), super::moment(run.began_s)];
        row.extend(columns.iter().map(|name| match fields.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }));
        writer.write_record(&row).map_err(told)?;
        Ok(())
    })?;
    writer.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_that_of_its_run_and_as_it_was_written() {
        let record = r#"{"a":0.1000,"b":"}"}"#;
        let line = format!("{}{record}}}", before_record("speed-1"));
        assert!(serde_json::from_str::<Value>(&line).is_ok());
        assert_eq!(record_of(&line, "speed-1"), Some(record));
        assert_eq!(record_of(&line, "speed-2"), None);
        assert_eq!(record_of("{}", "speed-1"), None);
    }
}
