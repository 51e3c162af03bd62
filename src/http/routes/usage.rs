//! What calls to language models used and cost.

use axum::Json;
use axum::extract::{RawQuery, State};

use crate::http::access::Call;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::state::AppState;
use crate::http::wire::{GroupBy, UsageBody, month_start, since};
use crate::store::UsageBy;

/// Usage
///
/// Tokens and costs of the tenant's calls to language models, added up by group, the most expensive first.
#[utoipa::path(get, path = "/usage", tag = "cost",
    params(
        ("group_by" = Option<String>, Query, example = "task",
            description = "`tenant`, `task`, `model`, `session`, `day` (UTC) or `prompt_version`; `tenant` if left out"),
        ("since" = Option<String>, Query, example = "2026-11-01",
            description = "A day or an RFC 3339 time; the start of the month (UTC) if left out"),
        ("limit" = Option<usize>, Query, description = "Most groups; see GET /limits"),
    ),
    responses((status = 200, description = "What was used", body = UsageBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_usage(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<UsageBody>, Problem> {
    let mut params = Params::read(query.as_deref());
    let by = params.value("group_by").unwrap_or(GroupBy(UsageBy::Tenant));
    let start = match params.text("since").map(|text| since(&text)) {
        Some(Ok(start)) => start,
        Some(Err(fault)) => {
            params.refuse("since", fault);
            Default::default()
        }
        None => month_start(jiff::Timestamp::now()),
    };
    let max = app.settings.max_page_size;
    let limit = params.value("limit").unwrap_or(app.settings.default_page_size);
    if limit == 0 || limit > max {
        params.refuse("limit", format!("is {limit}, from 1 to {max} are allowed"));
    }
    params.finish()?;
    let (scope, ledger) = (call.caller.scope(), &app.services.ledger);
    let rows = ledger.usage(&scope, by.0, start, limit).await?;
    let total = if rows.len() < limit {
        rows.iter().map(|row| row.cost).sum()
    } else {
        // There may be more groups than are shown; the tenant as one group holds them all.
        ledger.usage(&scope, UsageBy::Tenant, start, 1).await?.iter().map(|row| row.cost).sum()
    };
    Ok(Json(UsageBody::new(call.trace(), by, start, (rows, total))))
}
