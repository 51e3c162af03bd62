//! `plumb serve`: the HTTP server, until it is told to stop.

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Config;

use super::output::say;

/// Serves until SIGTERM or Ctrl-C; what was taken is finished within the grace period. A second signal ends it at once.
///
/// Fails if the store could not make a write durable: the process must not go on as if nothing had happened.
pub async fn serve(app: App, config: &Config) -> anyhow::Result<()> {
    let address = config.server.listen;
    crate::http::check_listen(address, &config.auth)?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    let server = app.http_server()?;
    app.announce_address(&address.to_string())?;
    say(&format!("plumb serves http://{address} (docs at http://{address}/docs); stop with Ctrl-C\n"))?;

    app.work_on_tasks();
    let stop = CancellationToken::new();
    let watching = tokio::spawn(stop_on_signal(stop.clone()));
    let poisoned = app.poisoned();
    let server = tokio::spawn(server.serve(listener, stop.clone()));
    let lost_durability = tokio::select! {
        () = stop.cancelled() => false,
        () = poisoned => true,
    };
    stop.cancel();
    server.await.context("the server task ended")??;
    // A second signal must end a shutdown that hangs, so it is watched for to the end.
    let closed = app.shutdown().await;
    watching.abort();
    closed?;
    if lost_durability {
        anyhow::bail!("a write could not be made durable; check the disk, then start again");
    }
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("told to stop; finishing what was taken");
    stop.cancel();
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::warn!("told to stop again; ending at once");
    #[expect(clippy::disallowed_methods, reason = "a second signal means now; nothing acknowledged can be lost")]
    std::process::exit(130)
}
