//! What may be spent on language models, and the switch that stops it.

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;

use crate::domain::CallId;
use crate::http::access::Call;
use crate::http::body::read_json;
use crate::http::openapi::Problems;
use crate::http::params::Params;
use crate::http::problem::{FieldError, Problem};
use crate::http::state::AppState;
use crate::http::wire::{
    BudgetBody, BudgetInput, BudgetsBody, KillSwitchBody, KillSwitchInput, ResolveInput, own_scope,
};

use super::search::bound;

/// Budgets
///
/// Every budget that concerns calls of the tenant, with what was spent from it in the present period.
#[utoipa::path(get, path = "/budgets", tag = "cost",
    responses((status = 200, description = "The budgets", body = BudgetsBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_budgets(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<BudgetsBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    let budgets = app.services.control.budgets(&call.caller.scope()).await?;
    Ok(Json(BudgetsBody::new(call.trace(), budgets)))
}

/// Set a budget
///
/// Caps what the tenant, or each or one of its tasks, sessions and keys, may spend in a period. One with the same scope
/// and period is replaced; what was spent before stays spent.
#[utoipa::path(put, path = "/budgets/{scope}", tag = "cost", request_body = BudgetInput,
    params(("scope" = String, Path, example = "session:*",
        description = "`dimension:value` joined by `+`, percent-encoded; dimensions are `task`, `session` and `key`, \
            the value `*` is \"each for itself\". `tenant:` may be left out: it is always that of the key")),
    responses((status = 200, description = "The budget as it holds from now on", body = BudgetBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn put_budget(
    State(app): State<AppState>,
    call: Call,
    Path(scope): Path<String>,
    request: Request,
) -> Result<Json<BudgetBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let scope = own_scope(&scope, &call.caller.tenant);
    let input: BudgetInput =
        read_json(&parts.headers, body, bound(&app, "a budget")).await.map_err(|problem| beside(problem, &scope))?;
    let budget = input.into_budget(scope).map_err(Problem::fields)?;
    let caller = call.caller.scope();
    let state = app.services.control.put_budget(&caller, budget).await?;
    tracing::info!(tenant = %caller.tenant, key = caller.key_id.as_deref(), scope = %state.budget.scope, "budget set");
    Ok(Json(BudgetBody::new(Some(call.trace()), state)))
}

// All faults at once: that of the path with those of the body, unless the body could not be read at all.
fn beside<T>(problem: Problem, path: &Result<T, FieldError>) -> Problem {
    match path {
        Err(fault) if !problem.errors.is_empty() => {
            Problem::fields([fault.clone()].into_iter().chain(problem.errors).collect())
        }
        _ => problem,
    }
}

/// Resolve a reservation
///
/// Says what a call cost whose process stopped before it could say so: see `unresolved` in `GET /budgets`.
#[utoipa::path(post, path = "/budgets/reservations/{call_id}/resolve", tag = "cost", request_body = ResolveInput,
    params(("call_id" = String, Path, description = "As in `unresolved`",
        example = "cal_00112233445566778899aabbccddeeff")),
    responses((status = 204, description = "The reservation is gone, the cost is spent"), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn resolve_reservation(
    State(app): State<AppState>,
    call: Call,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let input: ResolveInput = read_json(&parts.headers, body, bound(&app, "a cost")).await?;
    let cost = input.cost().map_err(|fault| Problem::fields(vec![fault]))?;
    // What cannot be an id is an id that nothing has.
    let id: CallId = id.parse().map_err(|_| Problem::not_found("reservation"))?;
    let caller = call.caller.scope();
    app.services.control.resolve(&caller, id, cost).await?;
    tracing::info!(tenant = %caller.tenant, key = caller.key_id.as_deref(), call = %id, %cost, "reservation resolved");
    Ok(StatusCode::NO_CONTENT)
}

/// Kill switch
///
/// Whether calls to language models are switched off, for the whole server.
#[utoipa::path(get, path = "/admin/kill-switch", tag = "operations",
    responses((status = 200, description = "The switch", body = KillSwitchBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn get_kill_switch(
    State(app): State<AppState>,
    call: Call,
    RawQuery(query): RawQuery,
) -> Result<Json<KillSwitchBody>, Problem> {
    Params::read(query.as_deref()).finish()?;
    Ok(Json(KillSwitchBody::new(call.trace(), app.services.control.kill_switch().await)))
}

/// Switch calls to language models off or on
///
/// Holds for the whole server, for every tenant. While it is on, answers are made of quoted sentences.
#[utoipa::path(post, path = "/admin/kill-switch", tag = "operations", request_body = KillSwitchInput,
    responses((status = 200, description = "The switch as it is now", body = KillSwitchBody), Problems),
    security(("key" = [])))]
pub(in crate::http) async fn post_kill_switch(
    State(app): State<AppState>,
    call: Call,
    request: Request,
) -> Result<Json<KillSwitchBody>, Problem> {
    let (parts, body) = request.into_parts();
    Params::read(parts.uri.query()).finish()?;
    let input: KillSwitchInput = read_json(&parts.headers, body, bound(&app, "a wish for the kill switch")).await?;
    let (wanted, reason) = input.into_parts().map_err(|fault| Problem::fields(vec![fault]))?;
    let caller = call.caller.scope();
    let state = app.services.control.set_kill_switch(wanted, reason).await?;
    let reason = state.reason.as_deref();
    tracing::warn!(tenant = %caller.tenant, key = caller.key_id.as_deref(), ?wanted, reason, "kill switch set");
    Ok(Json(KillSwitchBody::new(call.trace(), state)))
}
