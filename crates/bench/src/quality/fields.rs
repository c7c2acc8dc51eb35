//! Answers that a program reads: CSV and JSON, and nothing around them.

use serde::Deserialize;
use serde_json::Value;

/// The answer is CSV of this header and these rows, in this order.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CsvCheck {
    /// The header is the first.
    rows: Vec<Vec<String>>,
}

impl CsvCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let records: Result<Vec<csv::StringRecord>, _> = reader.records().collect();
        let records = records.map_err(|error| format!("it is not CSV: {error}"))?;
        if records.len() != self.rows.len() {
            let (got, wanted) = (records.len(), self.rows.len());
            return Err(format!("{got} lines in place of {wanted}"));
        }
        for (number, (record, row)) in records.iter().zip(&self.rows).enumerate() {
            if !record.iter().eq(row.iter().map(String::as_str)) {
                return Err(format!("line {} is another", number + 1));
            }
        }
        Ok(())
    }
}

/// The answer is one JSON value.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonCheck {
    /// What it must obey.
    schema: Value,
    /// And what must be in it, by JSON pointers; texts are compared without regard to case.
    #[serde(default)]
    values: Vec<Pointed>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pointed {
    at: String,
    value: Value,
}

impl JsonCheck {
    pub(super) fn judge(&self, text: &str) -> Result<(), String> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("it is not JSON alone: {error}"))?;
        obeys(&value, &self.schema)?;
        for Pointed { at, value: wanted } in &self.values {
            let got = value.pointer(at);
            if !got.is_some_and(|got| is_same(got, wanted)) {
                return Err(format!("`{at}` is not {wanted}"));
            }
        }
        Ok(())
    }
}

/// Whether a value obeys a schema, and where it does not.
pub(crate) fn obeys(value: &Value, schema: &Value) -> Result<(), String> {
    let validator = jsonschema::validator_for(schema)
        .map_err(|error| format!("the question's schema is broken: {error}"))?;
    validator
        .validate(value)
        .map_err(|error| format!("{}: {error}", error.instance_path()))
}

/// Numbers by their value, texts without regard to case.
pub(super) fn is_same(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::String(got), Value::String(wanted)) => {
            got.trim().to_lowercase() == wanted.to_lowercase()
        }
        (Value::Number(got), Value::Number(wanted)) => got.as_f64() == wanted.as_f64(),
        (Value::Array(got), Value::Array(wanted)) => {
            got.len() == wanted.len() && got.iter().zip(wanted).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(got), Value::Object(wanted)) => {
            got.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|(key, wanted)| got.get(key).is_some_and(|got| is_same(got, wanted)))
        }
        (got, wanted) => got == wanted,
    }
}
