//! Which path leads to which handler, through which doors.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::domain::Permission;

use super::access::{Door, Lane, authenticate, check_address, enter};
use super::auth::{AuthError, AuthSettings};
use super::openapi::ApiDescription;
use super::routes::{
    answer, cases, control, documents, generations, ingest, operations, removal, search, task_control, task_events,
    task_records, tasks, traces, usage,
};
use super::settings::HttpSettings;
use super::state::{AppState, Services};
use super::trace::trace;

/// All routes with their layers. A request passes them from the outside in: trace, address, key, permission and
/// place, handler; only the handler reads the body.
pub(super) fn router(
    services: Services,
    settings: HttpSettings,
    auth: &AuthSettings,
    stopping: CancellationToken,
) -> Result<Router, AuthError> {
    let description = Bytes::from(description());
    let app = AppState::new(services, settings, auth, (description, stopping))?;
    let (guarded, _) = guarded(&app).split_for_parts();
    let guarded = guarded
        .fallback(operations::nowhere)
        .method_not_allowed_fallback(operations::wrong_method)
        .layer(from_fn_with_state(app.clone(), authenticate));
    let (open, _) = open().split_for_parts();
    let docs = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    Ok(open
        .merge(Router::<AppState>::from(docs))
        .method_not_allowed_fallback(operations::wrong_method)
        .merge(guarded)
        .layer(from_fn_with_state(app.clone(), check_address))
        .layer(from_fn(trace))
        // Every handler bounds its own body; the framework's blanket bound would cut streams.
        .layer(DefaultBodyLimit::disable())
        .with_state(app))
}

/// The OpenAPI description of all routes, as JSON.
pub(super) fn description() -> String {
    let mut api = ApiDescription::openapi();
    api.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let (_, open) = open().split_for_parts();
    let (_, guarded) = described().split_for_parts();
    api.merge(open);
    api.merge(guarded);
    api.to_pretty_json().expect("a description holds only what JSON can say")
}

/// Routes that need no key.
fn open() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::version))
        .routes(routes!(operations::openapi))
        .routes(routes!(operations::front))
}

fn guarded(app: &AppState) -> OpenApiRouter<AppState> {
    GROUPS.iter().fold(OpenApiRouter::new(), |all, group| {
        let door = Door { app: app.clone(), needs: group.needs, lane: group.lane };
        all.merge((group.routes)().route_layer(from_fn_with_state(door, enter)))
    })
}

fn described() -> OpenApiRouter<AppState> {
    GROUPS.iter().fold(OpenApiRouter::new(), |all, group| all.merge((group.routes)()))
}

/// Routes behind the same door.
struct Group {
    needs: &'static [Permission],
    lane: Lane,
    routes: fn() -> OpenApiRouter<AppState>,
}

const GROUPS: [Group; 16] = [
    Group { needs: &[Permission::Search], lane: Lane::Request, routes: searching },
    Group { needs: &[Permission::Search, Permission::Write], lane: Lane::Request, routes: reading },
    Group { needs: &[Permission::Write], lane: Lane::Upload, routes: writing },
    Group { needs: &[Permission::Write], lane: Lane::Order, routes: deleting },
    Group { needs: &[Permission::Write], lane: Lane::Request, routes: labelling },
    Group { needs: &[Permission::Answer], lane: Lane::Answer, routes: answering },
    Group { needs: &ANY, lane: Lane::Request, routes: counting },
    // Each kind of task asks for its own permission.
    Group { needs: &ANY, lane: Lane::Order, routes: ordering },
    Group { needs: &ANY, lane: Lane::Request, routes: tasking },
    Group { needs: &ANY, lane: Lane::Watch, routes: following },
    Group { needs: &ANY, lane: Lane::Operations, routes: halting },
    Group { needs: &[Permission::Admin], lane: Lane::Operations, routes: controlling },
    Group { needs: &[Permission::Admin], lane: Lane::Order, routes: rebuilding },
    Group { needs: &[Permission::Admin], lane: Lane::Request, routes: changing },
    Group { needs: &ANY, lane: Lane::Operations, routes: telling },
    Group { needs: &[Permission::Admin], lane: Lane::Operations, routes: watching },
];

const ANY: [Permission; 4] = [Permission::Search, Permission::Answer, Permission::Write, Permission::Admin];

fn searching() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(search::post_search, search::get_search))
        .routes(routes!(search::post_search_batch))
}

fn reading() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(documents::list_documents))
        .routes(routes!(documents::get_document))
        .routes(routes!(documents::get_versions))
        .routes(routes!(documents::get_chunks))
        .routes(routes!(documents::get_content))
        .routes(routes!(documents::get_chunk))
        .routes(routes!(documents::list_collections))
}

fn writing() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(ingest::post_documents)).routes(routes!(ingest::put_document))
}

// Uploads that fill all their places must not keep anybody from taking a document back.
fn deleting() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(removal::delete_document))
}

fn labelling() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(cases::put_cases, cases::list_cases)).routes(routes!(cases::delete_case))
}

fn answering() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(answer::post_answer))
}

fn counting() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(usage::get_usage)).routes(routes!(control::get_budgets))
}

fn ordering() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(tasks::post_task, tasks::list_tasks))
}

fn tasking() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(tasks::get_task))
        .routes(routes!(tasks::get_result))
        .routes(routes!(task_records::get_items))
        .routes(routes!(task_records::get_task_failures))
        .routes(routes!(task_records::get_failures))
        .routes(routes!(task_control::redrive_task))
        .routes(routes!(task_control::fork_task))
}

fn following() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(task_events::get_task_events))
}

// Never full either: a task that spends must be stoppable.
fn halting() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(task_control::cancel_task))
        .routes(routes!(task_control::pause_task))
        .routes(routes!(task_control::resume_task))
}

// In the lane that is never full: spending must be stoppable while everything else waits.
fn controlling() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(control::put_budget))
        .routes(routes!(control::resolve_reservation))
        .routes(routes!(control::get_kill_switch, control::post_kill_switch))
}

fn rebuilding() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(generations::post_generation))
}

fn changing() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(generations::list_generations))
        .routes(routes!(generations::get_generation))
        .routes(routes!(generations::put_plan))
        .routes(routes!(generations::get_report))
        .routes(routes!(generations::promote_generation))
        .routes(routes!(generations::roll_generation_back))
        .routes(routes!(generations::retire_generation))
}

fn telling() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(operations::limits)).routes(routes!(traces::get_trace))
}

fn watching() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(operations::metrics))
}
