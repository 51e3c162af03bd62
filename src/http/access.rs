//! Who gets in, in this order: host, key, permission, place, time. Only then is a body read.

use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts as RequestParts;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use url::Host;

use crate::domain::{Permission, TraceId};

use super::auth::{Caller, looks_like_a_key};
use super::permits::keep;
use super::problem::{Problem, ProblemKind};
use super::state::AppState;
use super::trace::{RequestContext, ServedTenant, record_tenant};

/// The parameter of a request that waits for its task.
pub(super) const WAIT_PARAMETER: &str = "wait_ms";
/// The parameter of a request that waits until a document is erased.
pub(super) const ERASE_PARAMETER: &str = "erase";

/// A request whose caller is known and allowed.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub context: RequestContext,
    pub caller: Caller,
}

impl Call {
    pub(super) fn trace(&self) -> TraceId {
        self.context.trace
    }
}

impl<S: Sync> FromRequestParts<S> for Call {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut RequestParts, _: &S) -> Result<Self, Problem> {
        let unrouted = || Problem::new(ProblemKind::Internal, "the request did not pass the door");
        let context = *parts.extensions.get::<RequestContext>().ok_or_else(unrouted)?;
        let caller = parts.extensions.get::<Caller>().cloned().ok_or_else(unrouted)?;
        Ok(Self { context, caller })
    }
}

/// Refuses names and pages that have no business with a server without keys, and keys in URLs anywhere.
pub(super) async fn check_address(State(app): State<AppState>, request: Request, next: Next) -> Response {
    let checked = refuse_keys_in_url(request.uri()).and_then(|()| {
        if app.authenticator.is_open() { check_names(&app, request.uri(), request.headers()) } else { Ok(()) }
    });
    match checked {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Finds the caller; 401 without.
pub(super) async fn authenticate(State(app): State<AppState>, mut request: Request, next: Next) -> Response {
    match app.authenticator.caller(request.headers(), Timestamp::now()) {
        Ok(caller) => {
            record_tenant(&caller.tenant);
            let tenant = ServedTenant(caller.tenant.clone());
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(tenant);
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// The door of a group of routes.
#[derive(Clone)]
pub(super) struct Door {
    pub app: AppState,
    /// Any of these lets in.
    pub needs: &'static [Permission],
    pub lane: Lane,
}

/// Which places a request takes, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Small work with a time limit.
    Request,
    /// A model writes.
    Answer,
    /// A body of any length: limited by its progress, not by a total time.
    Upload,
    /// As `Request`; one that asks to wait for its task takes a place among those who watch.
    Order,
    /// A stream for as long as its client stays.
    Watch,
    /// For operators: always let in, also when the server is full.
    Operations,
}

/// Checks the permission, waits for a place, and bounds the time.
pub(super) async fn enter(State(door): State<Door>, request: Request, next: Next) -> Response {
    let allowed = |caller: &Caller| door.needs.iter().any(|one| caller.may(*one));
    if !request.extensions().get::<Caller>().is_some_and(allowed) {
        return forbidden(door.needs).into_response();
    }
    let gate = match door.lane {
        Lane::Order if asks_to_wait(request.uri()) => &door.app.permits.watches,
        Lane::Request | Lane::Order => &door.app.permits.requests,
        Lane::Watch => &door.app.permits.watches,
        Lane::Answer => &door.app.permits.answers,
        Lane::Upload => &door.app.permits.uploads,
        Lane::Operations => return next.run(request).await,
    };
    let permit = match gate.enter().await {
        Ok(permit) => permit,
        Err(problem) => return problem.into_response(),
    };
    let limit_ms = match door.lane {
        Lane::Answer => door.app.settings.answer_timeout_ms,
        Lane::Request | Lane::Order => door.app.settings.request_timeout_ms,
        Lane::Upload | Lane::Watch | Lane::Operations => return keep(permit, next.run(request).await),
    };
    match tokio::time::timeout(Duration::from_millis(limit_ms), next.run(request)).await {
        Ok(response) => keep(permit, response),
        Err(_) => {
            let detail = format!("the request took longer than {limit_ms} ms; ask for less or set a deadline");
            Problem::new(ProblemKind::DeadlineExceeded, detail).into_response()
        }
    }
}

fn asks_to_wait(uri: &Uri) -> bool {
    url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .any(|(name, _)| name == WAIT_PARAMETER || name == ERASE_PARAMETER)
}

fn forbidden(needs: &[Permission]) -> Problem {
    let names: Vec<String> = needs.iter().map(|one| format!("{one:?}").to_lowercase()).collect();
    Problem::new(ProblemKind::Forbidden, format!("the key lacks the permission {}", names.join(" or ")))
}

// A key in a URL ends up in logs and histories of others.
fn refuse_keys_in_url(uri: &Uri) -> Result<(), Problem> {
    let query = uri.query().unwrap_or_default();
    let carries = url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| {
        matches!(name.as_ref(), "api_key" | "apikey" | "access_token") || looks_like_a_key(&value)
    });
    if carries {
        let detail = "a key does not belong into a URL; send it as `Authorization: Bearer <key>` and replace this one";
        return Err(Problem::new(ProblemKind::Malformed, detail));
    }
    Ok(())
}

// Without keys, whoever can make a browser on this machine send a request could read and write everything. A page
// reaches loopback under a name of its own (DNS rebinding: the Host gives it away) or from its own origin (Origin).
fn check_names(app: &AppState, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let named = match (uri.authority(), host) {
        (Some(authority), _) => Some(authority.as_str().to_owned()),
        (None, Some(host)) => Some(String::from_utf8_lossy(host).into_owned()),
        (None, None) => None,
    };
    if named.is_some_and(|name| !is_own_name(&format!("http://{name}"), &app.settings.allowed_hosts)) {
        let detail = "without keys the server answers to localhost and loopback addresses only; \
                      see the setting http.allowed_hosts";
        return Err(Problem::new(ProblemKind::Misdirected, detail));
    }
    let foreign =
        |origin: &HeaderValue| origin.to_str().map_or(true, |origin| !is_own_name(origin, &app.settings.allowed_hosts));
    if headers.get(header::ORIGIN).is_some_and(foreign) {
        let detail = "without keys the server takes no requests from pages of other origins";
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    Ok(())
}

fn is_own_name(origin: &str, allowed: &[String]) -> bool {
    let Ok(url) = url::Url::parse(origin) else { return false };
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || allowed.iter().any(|one| one.eq_ignore_ascii_case(name))
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_configured_names_are_own() {
        let allowed = ["plumb.internal".to_owned()];

        for own in [
            "http://localhost:7700",
            "http://127.0.0.1",
            "http://[::1]:7700",
            "http://LOCALHOST",
            "http://plumb.internal:1",
        ] {
            assert!(is_own_name(own, &allowed), "{own}");
        }
        for foreign in [
            "http://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://10.0.0.1",
            "http://localhost@evil.example",
            "null",
            "http://",
        ] {
            assert!(!is_own_name(foreign, &allowed), "{foreign}");
        }
    }

    #[test]
    fn keys_do_not_belong_into_urls() {
        let key = format!("plumb_ab12_{}", "0".repeat(64));

        for bad in [format!("/search?q={key}"), "/search?api_key=1".to_owned()] {
            assert!(refuse_keys_in_url(&bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(refuse_keys_in_url(&"/search?q=plumb_line".parse().unwrap()).is_ok());
    }
}
