//! Applies the document writes of one transaction.
//!
//! Writes to different documents do not see each other, so they are read, decided and written together, in waves in
//! which each document stands at most once. The order of the writes to one document is that of the waves.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::SqliteConnection;

use crate::domain::{CollectionName, ContentHash, DocumentId, GenerationId, GenerationState, TenantId, Timestamp};
use crate::store::{StoreError, WriteOutcome};

use super::plan::{Case, Ids, Planner, Reuse, reuse};
use super::prepare::{Change, ChangeKind, ChunkingColumns};
use super::standing::{self, Known, Live, Place, PreviousChunk, Target};

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
    let targets = load_targets(connection, items).await?;
    let mut cases: BTreeMap<usize, Case<'_>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let place = places.get(&(item.tenant, &item.change.collection)).copied();
        match admit(item, place, &targets) {
            Ok(case) => {
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

fn admit<'a>(item: &Item<'a>, place: Option<Place>, targets: &Targets) -> Result<Case<'a>, WriteOutcome> {
    let case = |place, target| Case {
        change: item.change,
        place,
        target,
        known: None,
        previous: Vec::new(),
        pieces: Vec::new(),
    };
    match (&item.change.kind, place) {
        (ChangeKind::Put(put), Some(place)) if put.generation == place.generation_id => Ok(case(place, None)),
        (ChangeKind::Put(_), _) => {
            let document = item.change.document.to_string();
            Err(WriteOutcome::Failed(StoreError::NotLive { document }))
        }
        (_, Some(place)) => Ok(case(place, admit_target(&item.change.kind, place, targets)?)),
        (_, None) => Err(WriteOutcome::NotFound),
    }
}

// A generation of another collection is an unknown one.
fn admit_target(kind: &ChangeKind, place: Place, targets: &Targets) -> Result<Option<Target>, WriteOutcome> {
    let Some(id) = named_generation(kind) else { return Ok(None) };
    let target = targets.get(id).filter(|target| target.collection == place.collection);
    match (kind, target) {
        (_, None) => Err(WriteOutcome::NotFound),
        // Nothing is ready there any more.
        (ChangeKind::Serve(_), Some(target)) if target.state == GenerationState::Retired => Err(WriteOutcome::NotFound),
        (_, Some(target)) if target.state == GenerationState::Retired => {
            Err(WriteOutcome::Failed(StoreError::WrongState { state: "retired" }))
        }
        (_, Some(target)) => Ok(Some(*target)),
    }
}

fn named_generation(kind: &ChangeKind) -> Option<&GenerationId> {
    match kind {
        ChangeKind::Build(build) => Some(&build.generation),
        ChangeKind::Serve(generation) => Some(generation),
        ChangeKind::Put(_) | ChangeKind::Delete | ChangeKind::Embed(_) => None,
    }
}

type Targets = HashMap<GenerationId, Target>;

async fn load_targets(connection: &mut SqliteConnection, items: &[Item<'_>]) -> Result<Targets, StoreError> {
    let wanted: HashSet<&GenerationId> = items.iter().filter_map(|item| named_generation(&item.change.kind)).collect();
    if wanted.is_empty() { Ok(Targets::new()) } else { standing::load_targets(connection, wanted.into_iter()).await }
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

// The present chunks of the documents that change, serving and ready, and the cuts of the texts that get other chunks.
async fn load_chunks(
    connection: &mut SqliteConnection,
    cases: &mut BTreeMap<usize, Case<'_>>,
) -> Result<(), StoreError> {
    let mut wanted = Vec::new();
    let mut ranges = Vec::new();
    for (index, case) in &mut *cases {
        let Some(live) = case.known.as_ref().and_then(|known: &Known| known.live.as_ref()) else { continue };
        let touched = touched(&case.change.kind, case.place, live);
        if touched.text {
            case.pieces = standing::load_pieces(connection, live).await?;
        }
        if touched.serving && live.chunk_count > 0 {
            wanted.push((*index, None));
            ranges.push((live.first_chunk, live.chunk_count));
        }
        for (position, standby) in live.standbys.iter().enumerate() {
            let is_target = case.target.is_some_and(|target| target.generation == standby.generation);
            if (touched.standbys || is_target && touched.text) && standby.chunk_count > 0 {
                wanted.push((*index, Some(position)));
                ranges.push((standby.first_chunk, standby.chunk_count));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let chunks = standing::load_previous(connection, &ranges).await?;
    for (range, chunks) in standing::group_by_index(chunks) {
        let (index, standby) = wanted[range];
        if let Some(place) = cases.get_mut(&index).and_then(|case| chunks_of(case, standby)) {
            *place = chunks;
        }
    }
    Ok(())
}

/// What a write needs to know of the present.
struct Touched {
    serving: bool,
    standbys: bool,
    /// Where the text was cut.
    text: bool,
}

fn touched(kind: &ChangeKind, place: Place, live: &Live) -> Touched {
    let (serving, standbys, text) = match kind {
        ChangeKind::Put(put) => {
            let reused = reuse(put, place.generation, Some(live));
            (reused != Reuse::All, reused != Reuse::All, reused == Reuse::Text)
        }
        ChangeKind::Delete => (true, true, false),
        ChangeKind::Embed(_) => (true, false, false),
        ChangeKind::Build(_) => (false, false, true),
        ChangeKind::Serve(_) => (false, false, false),
    };
    Touched { serving, standbys, text }
}

fn chunks_of<'c>(case: &'c mut Case<'_>, standby: Option<usize>) -> Option<&'c mut Vec<PreviousChunk>> {
    match standby {
        None => Some(&mut case.previous),
        Some(position) => Some(&mut case.known.as_mut()?.live.as_mut()?.standbys.get_mut(position)?.chunks),
    }
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
                wanted.entry((case.place.tenant, embedder.id)).or_default().extend(inputs(&put.chunking));
            }
            ChangeKind::Build(build) => {
                let Some(embedder) = case.target.and_then(|target| target.embedder) else { continue };
                wanted.entry((case.place.tenant, embedder.id)).or_default().extend(inputs(&build.chunking));
            }
            ChangeKind::Embed(new) => {
                let live = case.known.as_ref().and_then(|known| known.live.as_ref());
                let Some(embedder) = live.and_then(|live| live.embedder) else { continue };
                let inputs = new.iter().map(|new| &new.input_hash);
                wanted.entry((case.place.tenant, embedder.id)).or_default().extend(inputs);
            }
            ChangeKind::Delete | ChangeKind::Serve(_) => {}
        }
    }
    for ((tenant, embedder), inputs) in wanted {
        let stored = standing::load_vectors(connection, (tenant, embedder), inputs.into_iter()).await?;
        planner.knows(tenant, embedder, stored);
    }
    Ok(())
}

fn inputs(chunking: &ChunkingColumns) -> impl Iterator<Item = &ContentHash> {
    chunking.chunks.iter().filter(|chunk| chunk.vector.is_some()).map(|chunk| &chunk.input_hash)
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
