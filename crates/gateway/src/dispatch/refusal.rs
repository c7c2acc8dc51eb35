//! Errors of decisions that leave nobody.

use router::{Decision, Excluded, Exclusion, Fleet, Route, same_name};
use supervisor::ModelStatus;

use crate::error::{ApiError, ErrorCode};

/// Why nobody can answer. `models` are those of this process.
pub(crate) fn refusal(decision: &Decision, fleet: &Fleet, models: &[ModelStatus]) -> ApiError {
    if let Route::Name(name) = &decision.route
        && !decision
            .excluded
            .iter()
            .any(|one| may_have(one, name, fleet))
    {
        return not_loaded(name, models);
    }
    let told = told(&decision.excluded);
    let any = |test: fn(&Exclusion) -> bool| told.iter().any(|one| test(&one.reason));
    let is_temporary = |reason: &Exclusion| {
        matches!(
            reason,
            Exclusion::Down { .. } | Exclusion::Broken { .. } | Exclusion::Cooling { .. }
        )
    };
    if any(is_temporary) {
        return ApiError::new(ErrorCode::NoProvider, &[("reasons", &sentences(&told))]);
    }
    if any(|reason| matches!(reason, Exclusion::TooFar { .. })) {
        return ApiError::new(ErrorCode::PrivacyRefused, &[("reasons", &sentences(&told))]);
    }
    if any(|reason| matches!(reason, Exclusion::NotAllowed { .. })) {
        let model = match &decision.route {
            Route::Alias(name) | Route::Name(name) => format!("`{name}`"),
            Route::Explicit | Route::Task(_) | Route::Auto => "any model that can answer".into(),
        };
        let facts = [("value", &*model), ("reasons", &sentences(&told))];
        return ApiError::new(ErrorCode::ModelForbidden, &facts);
    }
    if any(|reason| matches!(reason, Exclusion::OverBudget { .. })) {
        let message = format!("Nobody is left to answer: {}.", sentences(&told));
        return ApiError::message(ErrorCode::BudgetExhausted, &message);
    }
    let lacks = told.iter().find(|one| {
        matches!(
            one.reason,
            Exclusion::LacksCapability(_)
                | Exclusion::UnknownCapability(_)
                | Exclusion::ContextTooSmall { .. }
        )
    });
    if let Some(lacks) = lacks {
        let model = lacks.model.as_deref().unwrap_or_default();
        let message = format!("`{}:{model}`: {}.", lacks.provider, lacks.reason);
        return ApiError::message(ErrorCode::CapabilityMissing, &message);
    }
    match &decision.route {
        Route::Name(name) => not_loaded(name, models),
        _ if any(|reason| matches!(reason, Exclusion::LacksModel | Exclusion::Drained)) => {
            ApiError::new(ErrorCode::NoProvider, &[("reasons", &sentences(&told))])
        }
        _ => ApiError::new(ErrorCode::NoModel, &[]),
    }
}

/// Whether an excluded provider has the model that was asked for, or may have it.
fn may_have(excluded: &Excluded, name: &str, fleet: &Fleet) -> bool {
    let Some(provider) = fleet.provider(&excluded.provider) else {
        return false;
    };
    let is_asked = |model: &str| same_name(model, name);
    match (&excluded.reason, &*provider.models) {
        (Exclusion::LacksModel | Exclusion::NoDefaultModel, _) => false,
        // Nobody has been able to look.
        (_, []) => true,
        (_, models) => {
            // A fallback that was left out is another model's matter, but a matter.
            let is_fallback = excluded
                .model
                .as_deref()
                .is_some_and(|model| !is_asked(model));
            is_fallback || models.iter().any(|model| is_asked(&model.name))
        }
    }
}

/// Without those who never had the model: they are no help.
fn told(excluded: &[Excluded]) -> Vec<&Excluded> {
    let told: Vec<_> = excluded
        .iter()
        .filter(|one| {
            !matches!(
                one.reason,
                Exclusion::LacksModel | Exclusion::NoDefaultModel
            )
        })
        .collect();
    match told.is_empty() {
        true => excluded.iter().collect(),
        false => told,
    }
}

fn sentences(excluded: &[&Excluded]) -> String {
    let sentences = excluded.iter();
    let sentences: Vec<_> = sentences
        .map(|one| format!("`{}`: {}", one.provider, one.reason))
        .collect();
    sentences.join("; ")
}

/// No model of that name, with the names that there are.
pub(crate) fn not_loaded(name: &str, models: &[ModelStatus]) -> ApiError {
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    let loaded = match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    };
    let facts = [("value", name), ("loaded", &*loaded)];
    ApiError::new(ErrorCode::ModelNotFound, &facts)
        .with_param("model")
        .with("loaded", names)
}
