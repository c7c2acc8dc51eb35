//! What the planner predicts for a model as it was loaded, to stand beside what it takes.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::bus::ModelState;
use crate::http::Server;

/// Where the server's planner is asked.
const PATH: &str = "/api/plan";

/// The answer of the planner, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Plan {
    pub(super) resident_bytes: u64,
    ledger: Vec<Term>,
    caches: Vec<Cache>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Term {
    name: String,
    bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Cache {
    bytes: u64,
}

impl Plan {
    pub(super) fn weights(&self) -> u64 {
        self.terms("weights")
    }

    pub(super) fn computation(&self) -> u64 {
        self.terms("compute")
    }

    pub(super) fn caches(&self) -> u64 {
        self.caches.iter().map(|cache| cache.bytes).sum()
    }

    fn terms(&self, begin: &str) -> u64 {
        let terms = self.ledger.iter();
        let terms = terms.filter(|term| term.name.starts_with(begin));
        terms.map(|term| term.bytes).sum()
    }
}

/// The question for a model with the settings that its engine has; `None` before it is loaded.
pub(super) fn question(model: &ModelState) -> Option<Value> {
    let facts = model.facts.as_ref().filter(|_| model.phase == "ready")?;
    let mut ask = json!({
        "model": model.name,
        "slots": facts.slots,
        "batch": facts.batch,
        "ubatch": facts.ubatch,
    });
    if let Some(context) = model.asked.context {
        ask["context"] = json!(context);
    }
    match &facts.kv_plan {
        Some(plan) => ask["kv_plan"] = json!(plan),
        None => {
            ask["kv_type_k"] = json!(facts.kv_type_k);
            ask["kv_type_v"] = json!(facts.kv_type_v);
        }
    }
    Some(ask)
}

/// What the planner of the server answers, or why it does not.
pub(super) async fn ask(server: &Server, question: &Value) -> Result<Value, String> {
    let answer = server.post(PATH, question).await;
    answer.map_err(|fault| fault.to_string())
}

pub(super) fn read(answer: Value) -> Result<Plan, String> {
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Facts, fields_of};

    #[test]
    fn every_field_is_one_that_the_planner_has() {
        let description: Value = serde_json::from_str(&gateway::openapi_json()).unwrap();
        let schemas = &description["components"]["schemas"];
        for (schema, fields) in [
            ("PlanReport", fields_of::<Plan>()),
            ("PlanTerm", fields_of::<Term>()),
            ("PlanCache", fields_of::<Cache>()),
        ] {
            for field in fields {
                assert!(
                    schemas[schema]["properties"][*field].is_object(),
                    "{schema} has no `{field}`"
                );
            }
        }
        let known = schemas["PlanRequest"]["properties"].as_object().unwrap();
        let plan = Some("k=q8_0,v=q4_0".to_owned());
        for kv_plan in [None, plan] {
            let mut model = ModelState {
                phase: "ready".to_owned(),
                facts: Some(Facts {
                    kv_plan,
                    ..Facts::default()
                }),
                ..ModelState::default()
            };
            model.asked.context = Some(512);
            let ask = question(&model).unwrap();
            for field in ask.as_object().unwrap().keys() {
                assert!(known.contains_key(field), "{field}");
            }
            model.phase = "loading".to_owned();
            assert_eq!(question(&model), None);
        }
    }

    #[test]
    fn parts_are_sums_of_their_terms() {
        let plan: Plan = serde_json::from_value(json!({
            "resident_bytes": 9,
            "ledger": [
                { "name": "weights, packed", "bytes": 1 },
                { "name": "weights, mapped", "bytes": 2 },
                { "name": "compute buffer", "bytes": 4 },
                { "name": "program", "bytes": 8 },
            ],
            "caches": [{ "bytes": 16 }, { "bytes": 32 }],
        }))
        .unwrap();
        assert_eq!(
            (plan.weights(), plan.computation(), plan.caches()),
            (3, 4, 48)
        );
    }
}
