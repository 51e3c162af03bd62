//! Applies the document writes of one transaction.
//!
//! Writes to different documents do not see each other, so they are read, decided and written together, in waves in
//! which each document stands at most once. The order of the writes to one document is that of the waves.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::SqliteConnection;

use crate::domain::{CollectionName, ContentHash, DocumentId, TenantId, Timestamp};
use crate::store::{StoreError, WriteOutcome};

use super::plan::{Case, Ids, Planner, Reuse, reuse};
use super::prepare::{Change, ChangeKind};
use super::standing::{self, Known, Place};

/// A change with its tenant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item<'a> {
    pub tenant: &'a TenantId,
    pub change: &'a Change,
}

impl<'a> Item<'a> {
    fn document(&self) -> (&'a TenantId, &'a CollectionName, &'a DocumentId) {
        (self.tenant, &self.change.collection, &self.change.document)
    }
}

/// Indices of `items` by wave: every document at most once in each, its writes in order.
pub(super) fn waves(items: &[Item<'_>]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut next_wave = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let wave: &mut usize = next_wave.entry(item.document()).or_default();
        if waves.len() == *wave {
            waves.push(Vec::new());
        }
        waves[*wave].push(index);
        *wave += 1;
    }
    waves
}

/// Applies one wave; the outcomes are in the order of `items`.
pub(super) async fn apply_wave(
    connection: &mut SqliteConnection,
    ids: &mut Ids,
    now: Timestamp,
    items: &[Item<'_>],
) -> Result<Vec<WriteOutcome>, StoreError> {
    let mut outcomes: Vec<Option<WriteOutcome>> = items.iter().map(|_| None).collect();
    let places = load_places(connection, items).await?;
    let mut cases: BTreeMap<usize, Case<'_>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        match admit(item, places.get(&(item.tenant, &item.change.collection)).copied()) {
            Ok(place) => {
                let case = Case { change: item.change, place, known: None, previous: Vec::new(), pieces: Vec::new() };
                cases.insert(index, case);
            }
            Err(outcome) => outcomes[index] = Some(outcome),
        }
    }
    load_known(connection, &mut cases).await?;
    load_chunks(connection, &mut cases).await?;
    let mut planner = Planner::new(ids, now);
    load_vectors(connection, &cases, &mut planner).await?;
    for (index, case) in &cases {
        outcomes[*index] = Some(planner.plan(case));
    }
    planner.finish().apply(connection, now).await?;
    Ok(outcomes.into_iter().map(|outcome| outcome.expect("each item is refused or planned")).collect())
}

fn admit(item: &Item<'_>, place: Option<Place>) -> Result<Place, WriteOutcome> {
    match (&item.change.kind, place) {
        (ChangeKind::Put(put), Some(place)) if put.generation == place.generation_id => Ok(place),
        (ChangeKind::Put(_), _) => {
            let document = item.change.document.to_string();
            Err(WriteOutcome::Failed(StoreError::NotLive { document }))
        }
        (_, Some(place)) => Ok(place),
        (_, None) => Err(WriteOutcome::NotFound),
    }
}

type Places<'a> = HashMap<(&'a TenantId, &'a CollectionName), Place>;

async fn load_places<'a>(connection: &mut SqliteConnection, items: &[Item<'a>]) -> Result<Places<'a>, StoreError> {
    let wanted: HashSet<_> = items.iter().map(|item| (item.tenant, &item.change.collection)).collect();
    let mut places = HashMap::with_capacity(wanted.len());
    for (tenant, collection) in wanted {
        if let Some(place) = standing::load_place(connection, tenant, collection).await? {
            places.insert((tenant, collection), place);
        }
    }
    Ok(places)
}

async fn load_known(
    connection: &mut SqliteConnection,
    cases: &mut BTreeMap<usize, Case<'_>>,
) -> Result<(), StoreError> {
    let mut by_collection: HashMap<i64, Vec<(usize, &str)>> = HashMap::new();
    for (index, case) in &*cases {
        by_collection.entry(case.place.collection).or_default().push((*index, case.change.document.as_str()));
    }
    for (collection, documents) in by_collection {
        let names: Vec<&str> = documents.iter().map(|(_, name)| *name).collect();
        for (position, known) in standing::load_known(connection, collection, &names).await? {
            if let Some(case) = cases.get_mut(&documents[position].0) {
                case.known = Some(known);
            }
        }
    }
    Ok(())
}

// The present chunks of the documents that change, and the cuts of the texts that get other chunks.
async fn load_chunks(
    connection: &mut SqliteConnection,
    cases: &mut BTreeMap<usize, Case<'_>>,
) -> Result<(), StoreError> {
    let mut wanted = Vec::new();
    let mut ranges = Vec::new();
    for (index, case) in &mut *cases {
        let Some(live) = case.known.as_ref().and_then(|known: &Known| known.live.as_ref()) else { continue };
        let reused = match &case.change.kind {
            ChangeKind::Put(put) => reuse(put, case.place.generation, Some(live)),
            ChangeKind::Delete | ChangeKind::Embed(_) => Reuse::Chunks,
        };
        if reused == Reuse::Text {
            case.pieces = standing::load_pieces(connection, live).await?;
        }
        if reused != Reuse::All && live.chunk_count > 0 {
            wanted.push(*index);
            ranges.push((live.first_chunk, live.chunk_count));
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let chunks = standing::load_previous(connection, &ranges).await?;
    for (range, chunks) in standing::group_by_index(chunks) {
        if let Some(case) = cases.get_mut(&wanted[range]) {
            case.previous = chunks;
        }
    }
    Ok(())
}

async fn load_vectors(
    connection: &mut SqliteConnection,
    cases: &BTreeMap<usize, Case<'_>>,
    planner: &mut Planner<'_>,
) -> Result<(), StoreError> {
    let mut wanted: HashMap<(i64, i64), HashSet<&ContentHash>> = HashMap::new();
    for case in cases.values() {
        match &case.change.kind {
            ChangeKind::Put(put) => {
                let Some(embedder) = case.place.embedder else { continue };
                let inputs = put.chunks.iter().filter(|chunk| chunk.vector.is_some()).map(|chunk| &chunk.input_hash);
                wanted.entry((case.place.tenant, embedder.id)).or_default().extend(inputs);
            }
            ChangeKind::Embed(new) => {
                let live = case.known.as_ref().and_then(|known| known.live.as_ref());
                let Some(embedder) = live.and_then(|live| live.embedder) else { continue };
                let inputs = new.iter().map(|new| &new.input_hash);
                wanted.entry((case.place.tenant, embedder.id)).or_default().extend(inputs);
            }
            ChangeKind::Delete => {}
        }
    }
    for ((tenant, embedder), inputs) in wanted {
        let stored = standing::load_vectors(connection, (tenant, embedder), inputs.into_iter()).await?;
        planner.knows(tenant, embedder, stored);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_one_document_stay_in_order_and_others_share_a_wave() {
        let tenant = TenantId::new("t").unwrap();
        let change = |document: &str| Change {
            collection: CollectionName::new("c").unwrap(),
            document: DocumentId::new(document).unwrap(),
            kind: ChangeKind::Delete,
            bytes: 0,
        };
        let changes = ["a", "b", "a", "c", "a"].map(change);
        let items: Vec<Item<'_>> = changes.iter().map(|change| Item { tenant: &tenant, change }).collect();

        assert_eq!(waves(&items), [vec![0, 1, 3], vec![2], vec![4]]);
    }
}
