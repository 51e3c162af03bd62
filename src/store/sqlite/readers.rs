//! Connections that only read, lent one at a time.
//!
//! sqlx has a pool, which pings a connection each time it comes back: a round trip to its thread that costs as much
//! as the query itself. Connections to a local file do not go stale.

use parking_lot::Mutex;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::store::StoreError;

#[derive(Debug)]
pub(super) struct Readers {
    idle: Mutex<Vec<SqliteConnection>>,
    permits: Semaphore,
    size: u32,
}

/// A connection on loan; goes back when dropped, also in the middle of a query.
pub(super) struct Reader<'a> {
    connection: Option<SqliteConnection>,
    readers: &'a Readers,
    _permit: SemaphorePermit<'a>,
}

impl Readers {
    pub(super) fn new(connections: Vec<SqliteConnection>) -> Self {
        let size = u32::try_from(connections.len()).expect("a handful of connections");
        Self { permits: Semaphore::new(connections.len()), idle: Mutex::new(connections), size }
    }

    /// Waits until a connection is free; first come, first served. [`StoreError::Closed`] after [`Self::close`].
    pub(super) async fn lend(&self) -> Result<Reader<'_>, StoreError> {
        let permit = self.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let connection = self.idle.lock().pop();
        Ok(Reader { connection, readers: self, _permit: permit })
    }

    /// Waits for the loans to end and closes the connections.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        let Ok(all) = self.permits.acquire_many(self.size).await else { return Ok(()) };
        self.permits.close();
        drop(all);
        let connections = std::mem::take(&mut *self.idle.lock());
        for connection in connections {
            connection.close().await?;
        }
        Ok(())
    }
}

impl Reader<'_> {
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("there are as many connections as permits")
    }
}

impl Drop for Reader<'_> {
    // Runs before the permit is given back, so whoever gets it finds a connection.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.idle.lock().push(connection);
        }
    }
}
