//! Who is alive: gives signs of life, watches those of others, and hears what is wished of the tasks held here.
//!
//! Only elapsed time on this machine counts; a wall clock that jumps changes nothing. A runner that is wrong about another
//! does no harm: the epoch of the lease keeps the loser from writing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::domain::{RunnerId, Wish};
use crate::store::StoreError;

use super::held::Signal;
use super::runner::{Shared, is_gone};

/// After a look at the wishes, so that a bell that rings all the time costs little.
const WISHES_PAUSE: Duration = Duration::from_millis(50);

/// Keeps the leases until it is dropped.
pub(super) async fn keep(shared: &Shared) {
    tokio::join!(keep_alive(shared), hear_wishes(shared));
}

async fn keep_alive(shared: &Shared) {
    let lease = Duration::from_millis(shared.parts.settings.lease_ms.max(3));
    let mut sure_until = Instant::now() + lease;
    let mut seen = HashMap::new();
    loop {
        tokio::time::sleep(lease / 3).await;
        let began = Instant::now();
        // Short tasks count as well: others may see one held whenever they look.
        if !shared.held.was_any() {
            sure_until = began + lease;
        } else {
            match tokio::time::timeout(lease / 3, shared.parts.queue.beat(shared.id)).await {
                Ok(Ok(())) => sure_until = began + lease,
                Ok(Err(error)) => failed(shared, &error, "no sign of life could be given"),
                Err(_) => tracing::warn!("a sign of life takes too long to be written"),
            }
        }
        if Instant::now() >= sure_until {
            shared.held.tell_all(Signal::Release);
        }
        if let Err(error) = take_from_the_dead(shared, &mut seen, lease).await {
            failed(shared, &error, "the signs of life of other runners cannot be read");
        }
    }
}

/// Takes the tasks of runners whose beat has stood still for a whole lease.
async fn take_from_the_dead(
    shared: &Shared,
    seen: &mut HashMap<RunnerId, (u64, Instant)>,
    lease: Duration,
) -> Result<(), StoreError> {
    let holders = shared.parts.queue.holders().await?;
    seen.retain(|runner, _| holders.iter().any(|(holder, _)| holder == runner));
    for (runner, beat) in holders.into_iter().filter(|(runner, _)| *runner != shared.id) {
        let (last, since) = seen.entry(runner).or_insert((beat, Instant::now()));
        if *last != beat {
            (*last, *since) = (beat, Instant::now());
        } else if since.elapsed() >= lease {
            let tasks = shared.parts.queue.take_back(runner, beat).await?;
            if tasks > 0 {
                tracing::warn!(%runner, tasks, "a runner gives no sign of life; its tasks are back in line");
                shared.parts.bell.ring();
            }
        }
    }
    Ok(())
}

async fn hear_wishes(shared: &Shared) {
    let mut rung = shared.parts.bell.listen();
    loop {
        if !shared.held.is_empty() {
            match shared.parts.queue.wishes(shared.id).await {
                Ok(wishes) => wishes.into_iter().for_each(|(task, wish)| match wish {
                    Wish::Cancel => shared.held.tell(task, Signal::Cancel),
                    Wish::Pause => shared.held.tell(task, Signal::Pause),
                    Wish::Resume => {}
                }),
                Err(error) => failed(shared, &error, "wishes for tasks cannot be read"),
            }
        }
        tokio::time::sleep(WISHES_PAUSE.min(shared.poll_every())).await;
        tokio::select! {
            _ = rung.changed() => {}
            () = tokio::time::sleep(shared.poll_every()) => {}
        }
    }
}

fn failed(shared: &Shared, error: &StoreError, what: &'static str) {
    if is_gone(error) {
        return shared.stop.cancel();
    }
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}
