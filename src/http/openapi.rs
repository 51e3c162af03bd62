//! The description of the API: what the routes cannot say themselves.

use std::collections::BTreeMap;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Description, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::problem::{FieldError, ProblemBody, ProblemKind};

/// The parts that no route declares.
#[derive(OpenApi)]
#[openapi(
    info(title = "plumb", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(ProblemBody, FieldError)),
    tags(
        (name = "documents", description = "Documents in and out, and what is stored"),
        (name = "search", description = "Ranked passages"),
        (name = "answer", description = "Answers with citations"),
        (name = "tasks", description = "Durable work: asked for once, done once, whatever stops in between"),
        (name = "generations", description = "Changing how text becomes searchable, beside what serves"),
        (name = "cost", description = "What calls to language models cost, and what they may cost"),
        (name = "evals", description = "What generations of a collection are judged by"),
        (name = "operations", description = "The server itself")
    ),
    modifiers(&Conventions)
)]
pub(super) struct ApiDescription;

struct Conventions;

impl Modify for Conventions {
    fn modify(&self, api: &mut Description) {
        let mut slugs = String::new();
        for kind in ProblemKind::ALL {
            let (status, slug, title) = kind.parts();
            slugs.push_str(&format!("\n| `urn:plumb:problem:{slug}` | {} | {title} |", status.as_u16()));
        }
        api.info.description = Some(format!("{INTRODUCTION}{slugs}\n"));
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(KEYS)).build();
        api.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(bearer));
    }
}

const KEYS: &str = "A key of the configuration (`plumb config new-key`). Where none is configured the server listens on \
    loopback only and everybody there is the owner of the tenant `default`.";

const INTRODUCTION: &str = "Documents go in, ranked passages and cited answers come out.

- JSON in UTF-8, `snake_case`; times are RFC 3339 in UTC; `byte_range` and `highlights` count bytes of UTF-8.
- Every response has the header `x-trace-id`, JSON bodies the same value as `trace_id`; `GET /traces/{trace_id}` tells \
what happened under it, and names that trace instead of its own. A valid `traceparent` (W3C) is \
continued; anything else starts a new trace.
- Unknown fields and parameters are errors, so that a typo is never ignored.
- A key sees its own tenant only: an id of somebody else is an unknown id.
- `GET /limits` lists every limit. `Retry-After` says when a refused request may come again.
- `task_id` is `null` where the work was done within the request.
- Further fields may be added to responses at any time.

Errors are `application/problem+json` (RFC 9457). `errors` names every fault that could be found, by JSON pointer \
into the body or into the object of parameters.

| `type` | Status | Meaning |
|---|---|---|";

/// The error responses that any route may have.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        // Several problems may share a status; the description can hold one response for each status only.
        let mut titles: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for (status, _, title) in ProblemKind::ALL.map(ProblemKind::parts) {
            titles.entry(status.as_u16()).or_default().push(title);
        }
        let shown = |(status, titles): (u16, Vec<&str>)| {
            let content = Content::new(Some(Ref::from_schema_name("ProblemBody")));
            let response = ResponseBuilder::new().description(titles.join("; or: "));
            (status.to_string(), RefOr::T(response.content("application/problem+json", content).build()))
        };
        titles.into_iter().map(shown).collect()
    }
}
