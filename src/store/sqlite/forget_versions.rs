//! Finds versions that need not be kept. A number is never given out again: the document's row remembers the last.

use sqlx::SqliteConnection;

use crate::store::{KeepVersions, StoreError};

use super::codec::Columns;

/// Most versions that are looked at in one read.
const LOOK_AT_ONCE: i64 = 1_000;

// A version that serves stays. Of the others, what follows it tells since when it is out of use: the next version, or
// the deletion. What lies below `first_version` was deleted with its document.
const OLD: &str = "SELECT v.id, CASE \
        WHEN d.chunking_id IS NOT NULL AND v.id = d.version_id THEN 0 \
        WHEN v.number < d.first_version THEN \
            COALESCE((SELECT n.created_at FROM versions n WHERE n.document_id = v.document_id \
                AND n.number >= d.first_version ORDER BY n.number LIMIT 1), d.updated_at) < $5 \
        ELSE COALESCE(d.version - v.number >= $3, 0) OR COALESCE((SELECT n.created_at FROM versions n \
            WHERE n.document_id = v.document_id AND n.number > v.number ORDER BY n.number LIMIT 1) < $4, 0) \
    END FROM versions v CROSS JOIN documents d ON d.id = v.document_id WHERE v.id > $1 ORDER BY v.id LIMIT $2";

/// A portion of the versions after row `after`: those that need not be kept, and the last that was looked at; `None`
/// once there are no more.
pub(super) async fn old_versions(
    connection: &mut SqliteConnection,
    keep: KeepVersions,
    after: i64,
) -> Result<(Vec<i64>, Option<i64>), StoreError> {
    let query = sqlx::query(OLD).bind(after).bind(LOOK_AT_ONCE).bind(keep.newest.map(i64::from));
    let query = query.bind(keep.replaced_since.map(|time| time.0)).bind(keep.deleted_since.map(|time| time.0));
    let (mut old, mut last) = (Vec::new(), None);
    for row in &query.fetch_all(&mut *connection).await? {
        let mut columns = Columns::of(row);
        let (version, is_old): (i64, Option<bool>) = (columns.take()?, columns.take()?);
        last = Some(version);
        if is_old == Some(true) {
            old.push(version);
        }
    }
    Ok((old, last))
}
