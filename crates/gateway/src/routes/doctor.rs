//! `GET /api/doctor`: what is wrong with the settings, the machine and a model.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{MaybeQuery, given, ok};
use crate::AppState;
use crate::access::Head;
use crate::doctor::{Asking, Complaint, Reading};
use crate::error::{ApiError, ErrorCode};
use crate::limits::{self, DOCTOR_MODEL_BYTES_MAX};
use crate::wire::doctor::DoctorReport;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DoctorQuery {
    /// A model of the server's machine, by its name or the path of its file; it need not be
    /// loaded. Left out: none is looked at.
    model: Option<String>,
    /// Read all of the model, and compare with its store's checksum. That takes as long as
    /// the disk does.
    checksum: bool,
    /// Ask the providers whether they answer.
    network: bool,
}

/// Looks for what is wrong; changes nothing. One checkup runs at a time, others wait for it.
#[utoipa::path(
    get,
    path = "/api/doctor",
    operation_id = "doctor",
    tag = "operation",
    params(DoctorQuery),
    responses(
        (status = 200, description = "What was found, each with its fix", body = DoctorReport),
        (status = "4XX", description = "See the error table", body = crate::openapi::OllamaError),
        (status = 501, description = "Nobody looks here", body = crate::openapi::OllamaError),
    )
)]
pub(crate) async fn doctor(
    State(state): State<AppState>,
    head: Head,
    query: MaybeQuery<DoctorQuery>,
) -> Result<Response, ApiError> {
    let query = given(query)?;
    let model = query.model.filter(|model| !model.is_empty());
    if let Some(model) = &model {
        limits::count("model", model.len(), DOCTOR_MODEL_BYTES_MAX, "bytes")?;
        head.manages(model)?;
    }
    let doctor = state.config().doctor.clone();
    let doctor = doctor.ok_or_else(|| {
        let message = "This endpoint has nobody who looks at its machine.";
        ApiError::message(ErrorCode::NoDoctor, message)
    })?;
    let complaint = Complaint {
        model,
        reading: match query.checksum {
            true => Reading::Whole,
            false => Reading::Headers,
        },
        asking: match query.network {
            true => Asking::Providers,
            false => Asking::Nobody,
        },
    };
    let checkup = doctor.examine(complaint).await;
    let checkup = checkup.map_err(|why| ApiError::message(ErrorCode::Internal, &why))?;
    Ok(ok(&DoctorReport::new(&checkup)))
}
