//! The wire: routes, doors, JSON twins and status codes. Knows nothing of how anything below is done.

mod access;
mod answer_room;
mod auth;
mod body;
mod control_room;
mod failures;
mod forms;
mod intake;
mod json;
mod later;
mod lines;
mod local;
mod ndjson;
mod openapi;
mod params;
mod permits;
mod ports;
mod problem;
mod rooms;
mod router;
mod routes;
mod server;
mod settings;
mod sse;
mod stall;
mod state;
mod task_looks;
mod trace;
mod wire;

pub use answer_room::AnswerRoom;
pub use auth::{AuthError, AuthSettings, KeySettings, check_listen, new_key};
pub use control_room::ControlRoom;
pub use local::LocalDoor;
pub use ports::{
    AccountState, AnswerEvent, AnswerPort, AnswerRequest, BudgetSource, BudgetState, ControlPort, Failure, IngestPort,
    KillState, Refusal, Role, SearchPort, Severity, Shortfall, StatusPort, Switch, Turn,
};
pub use problem::FieldError;
pub use rooms::{IngestRoom, SearchRoom};
pub use server::{HttpServer, ServeError, openapi_json};
pub use settings::HttpSettings;
pub use state::Services;

#[cfg(test)]
mod tests;
