//! Accepts connections and serves them until told to stop.
//!
//! Connections are bounded in number, in the time to send a head, in idleness and in the time a client may leave a
//! response unread. Stopping: no new connections, requests in flight go on for the grace time, then they are cut.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::auth::{AuthError, AuthSettings, check_listen};
use super::router::{description, router};
use super::settings::HttpSettings;
use super::stall::WriteStall;
use super::state::Services;
use super::trace::is_streamed;

/// Why the server cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error("{0}")]
    Settings(String),
    #[error("the listening socket cannot be used")]
    Socket(#[source] std::io::Error),
}

/// A server that is ready to take connections.
pub struct HttpServer {
    router: Router,
    settings: HttpSettings,
    auth: AuthSettings,
    /// Told to the requests in flight.
    stopping: CancellationToken,
}

/// The OpenAPI 3.1 description of the API, as JSON; the same that `/openapi.json` serves.
pub fn openapi_json() -> String {
    description()
}

/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests side by side on one HTTP/2 connection; more wait at the client.
const MAX_STREAMS: u32 = 64;
/// How often an HTTP/2 peer is asked whether it is still there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(20);

impl HttpServer {
    pub fn new(services: Services, settings: HttpSettings, auth: AuthSettings) -> Result<Self, ServeError> {
        if let Some(fault) = settings.fault() {
            return Err(ServeError::Settings(fault));
        }
        let stopping = CancellationToken::new();
        let router = router(services, settings.clone(), &auth, stopping.clone())?;
        Ok(Self { router, settings, auth, stopping })
    }

    /// Serves until `stop` is cancelled, then finishes what is in flight within the grace time.
    ///
    /// Refuses a listener that others can reach if no keys are configured.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(ServeError::Socket)?;
        check_listen(address, &self.auth)?;
        tracing::info!(%address, keys = self.auth.keys.len(), "listening");
        let mut connections = JoinSet::new();
        self.accept(listener, address, &stop, &mut connections).await;
        self.stopping.cancel();
        let grace = Duration::from_millis(self.settings.shutdown_grace_ms);
        let open = connections.len();
        tracing::info!(open, grace_ms = self.settings.shutdown_grace_ms, "stopping");
        let finished = timeout(grace, async { while connections.join_next().await.is_some() {} }).await;
        if finished.is_err() {
            tracing::warn!(cut = connections.len(), "the grace time is over; cutting what is left");
            connections.shutdown().await;
        }
        Ok(())
    }

    async fn accept(
        &self,
        listener: TcpListener,
        address: SocketAddr,
        stop: &CancellationToken,
        connections: &mut JoinSet<()>,
    ) {
        let places = Arc::new(Semaphore::new(self.settings.max_connections));
        let next = async || {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        while let Some((place, accepted)) = stop.run_until_cancelled(next()).await {
            match accepted {
                Ok((stream, _)) => {
                    let connection = Connection { settings: self.settings.clone(), stop: stop.clone(), _place: place };
                    connections.spawn(connection.serve(stream, self.router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            // Finished ones are taken out, or the set would grow for ever.
            while connections.try_join_next().is_some() {}
        }
    }
}

struct Connection {
    settings: HttpSettings,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, router: Router) {
        // Small responses must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay is not available");
        }
        let patience = Duration::from_millis(self.settings.write_idle_timeout_ms);
        let io = TokioIo::new(WriteStall::new(stream, patience));
        let activity = Activity::new();
        let service = TowerToHyperService::new(Counted { router, activity: activity.clone() });
        let builder = self.builder();
        let mut serving = pin!(builder.serve_connection(io, service));
        // Until its first request a connection has shown nothing but that it takes a place.
        let first = Duration::from_millis(self.settings.header_read_timeout_ms);
        let idle = Duration::from_millis(self.settings.connection_idle_timeout_ms);
        let mut stopping = false;
        loop {
            tokio::select! {
                outcome = serving.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !stopping => {}
                () = activity.idle_for(first, idle), if !stopping => {}
            }
            // Lets requests in flight finish; a connection without any ends at once.
            stopping = true;
            serving.as_mut().graceful_shutdown();
        }
    }

    fn builder(&self) -> Builder<TokioExecutor> {
        let head_timeout = Duration::from_millis(self.settings.header_read_timeout_ms);
        let max_head = self.settings.max_header_bytes;
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(max_head);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY);
        builder
    }
}

/// How busy a connection is.
#[derive(Clone)]
struct Activity(Arc<Mutex<Load>>);

struct Load {
    /// Requests that ever began.
    begun: usize,
    in_flight: usize,
    quiet_since: Instant,
}

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Load { begun: 0, in_flight: 0, quiet_since: Instant::now() })))
    }

    fn begin(&self) -> InFlight {
        let mut load = self.0.lock();
        load.begun += 1;
        load.in_flight += 1;
        drop(load);
        InFlight(self.clone())
    }

    /// Returns once nothing was in flight for `idle`, or nothing ever began for `first`.
    async fn idle_for(&self, first: Duration, idle: Duration) {
        loop {
            let now = Instant::now();
            let until = {
                let load = self.0.lock();
                let quiet_since = if load.in_flight > 0 { now } else { load.quiet_since };
                quiet_since + if load.begun == 0 { first } else { idle }
            };
            if until <= now {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// One request and its response.
struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut load = self.0.0.lock();
        load.in_flight -= 1;
        load.quiet_since = Instant::now();
    }
}

/// Notes the beginning and the end of every request of a connection.
#[derive(Clone)]
struct Counted {
    router: Router,
    activity: Activity,
}

impl<B> Service<Request<B>> for Counted
where
    Router: Service<Request<B>, Response = Response, Error = std::convert::Infallible, Future: Send + 'static>,
{
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<B>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let in_flight = self.activity.begin();
        let response = self.router.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(if is_streamed(&response) { held(response, in_flight) } else { response })
        })
    }
}

fn held(response: Response, in_flight: InFlight) -> Response {
    response.map(|body| {
        Body::from_stream(body.into_data_stream().map(move |frame| {
            let _held = &in_flight;
            frame
        }))
    })
}
