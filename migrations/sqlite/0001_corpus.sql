-- The corpus: tenants, collections, generations, documents, versions, chunks, embeddings and the operation log.
--
-- Times are microseconds since 1970 (UTC), hashes and ids are blobs, structured values are JSON text.
-- Ids of documents, versions, chunkings, chunks, segments, embeddings and log rows are given out by the one writer;
-- the chunks of a chunking and the segments of a version therefore have consecutive ids, in order of position.

CREATE TABLE tenants (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT    NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE collections (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id          INTEGER NOT NULL REFERENCES tenants (id),
    name               TEXT    NOT NULL,
    -- NULL only inside the transaction that creates the collection.
    live_generation_id INTEGER REFERENCES generations (id),
    created_at         INTEGER NOT NULL,
    UNIQUE (tenant_id, name)
) STRICT;

CREATE TABLE embedders (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    fingerprint BLOB    NOT NULL UNIQUE,
    dimensions  INTEGER NOT NULL
) STRICT;

CREATE TABLE generations (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id      INTEGER NOT NULL REFERENCES tenants (id),
    collection_id  INTEGER NOT NULL REFERENCES collections (id),
    public_id      BLOB    NOT NULL UNIQUE,
    profile        TEXT    NOT NULL,
    fingerprint    BLOB    NOT NULL,
    embedder_id    INTEGER REFERENCES embedders (id),
    state          TEXT    NOT NULL CHECK (state IN ('building', 'shadow', 'live', 'retired')),
    created_at     INTEGER NOT NULL,
    -- Kept in the transaction of each change, so that an index can be compared with the truth without a scan.
    last_sequence  INTEGER NOT NULL DEFAULT 0,
    live_documents INTEGER NOT NULL DEFAULT 0,
    live_chunks    INTEGER NOT NULL DEFAULT 0,
    live_vectors   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX generations_of_collection ON generations (collection_id);

CREATE TABLE documents (
    id            INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL REFERENCES tenants (id),
    collection_id INTEGER NOT NULL REFERENCES collections (id),
    name          TEXT    NOT NULL,
    title         TEXT,
    source_uri    TEXT,
    media_type    TEXT    NOT NULL,
    metadata      TEXT    NOT NULL,
    -- A JSON array of principals; NULL: everyone in the tenant.
    acl           TEXT,
    head_hash     BLOB    NOT NULL,
    content_hash  BLOB    NOT NULL,
    -- The number of the newest version; it also outlives a deletion, so that numbers only grow.
    version       INTEGER NOT NULL,
    -- Versions below this number were deleted with the document and stay unreachable when it comes back.
    first_version INTEGER NOT NULL,
    version_id    INTEGER NOT NULL,
    generation_id INTEGER NOT NULL REFERENCES generations (id),
    -- The chunking that serves; NULL: the document is deleted.
    chunking_id   INTEGER,
    first_chunk   INTEGER NOT NULL,
    chunk_count   INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    sequence      INTEGER NOT NULL,
    UNIQUE (collection_id, name)
) STRICT;

CREATE TABLE versions (
    id            INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL REFERENCES tenants (id),
    document_id   INTEGER NOT NULL REFERENCES documents (id),
    number        INTEGER NOT NULL,
    content_hash  BLOB    NOT NULL,
    -- Over the normalized text itself: equal content parsed in another way is another version.
    text_hash     BLOB    NOT NULL,
    outline       TEXT    NOT NULL,
    first_segment INTEGER NOT NULL,
    segment_count INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    UNIQUE (document_id, number)
) STRICT;

-- A version's text in pieces, so that a chunk is read without the rest of its document and no byte is stored twice.
CREATE TABLE segments (
    id         INTEGER PRIMARY KEY,
    version_id INTEGER NOT NULL REFERENCES versions (id),
    -- Byte offset in the text.
    start      INTEGER NOT NULL,
    text       TEXT    NOT NULL
) STRICT;

-- The chunks of one version under one generation.
CREATE TABLE chunkings (
    id            INTEGER PRIMARY KEY,
    version_id    INTEGER NOT NULL REFERENCES versions (id),
    generation_id INTEGER NOT NULL REFERENCES generations (id),
    first_chunk   INTEGER NOT NULL,
    chunk_count   INTEGER NOT NULL,
    -- Over everything in the chunks but their embeddings.
    shape_hash    BLOB    NOT NULL,
    -- A chunker specification as JSON; NULL: the generation's.
    chunker       TEXT
) STRICT;

CREATE INDEX chunkings_of_version ON chunkings (version_id);

-- Vectors by what they were made from: equal text of one tenant is embedded once, whatever document it stands in.
CREATE TABLE embeddings (
    id          INTEGER PRIMARY KEY,
    tenant_id   INTEGER NOT NULL REFERENCES tenants (id),
    embedder_id INTEGER NOT NULL REFERENCES embedders (id),
    input_hash  BLOB    NOT NULL,
    -- Little-endian binary16.
    vector      BLOB    NOT NULL
) STRICT;

CREATE INDEX embeddings_by_input ON embeddings (tenant_id, embedder_id, input_hash);

CREATE TABLE chunks (
    id            INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL REFERENCES tenants (id),
    document_id   INTEGER NOT NULL REFERENCES documents (id),
    chunking_id   INTEGER NOT NULL REFERENCES chunkings (id),
    -- 1 while the document is served from this chunking.
    live          INTEGER NOT NULL CHECK (live IN (0, 1)),
    chunk_id      BLOB    NOT NULL,
    ordinal       INTEGER NOT NULL,
    span_start    INTEGER NOT NULL,
    span_end      INTEGER NOT NULL,
    -- The segment in which the span starts, and over how many it reaches.
    segment_id    INTEGER NOT NULL,
    segment_count INTEGER NOT NULL,
    heading_path  TEXT,
    page          INTEGER,
    token_count   INTEGER NOT NULL,
    metadata      TEXT,
    embedding_id  INTEGER REFERENCES embeddings (id),
    -- Hash of what is still to be embedded; NULL when it is, or when the generation has no embedder.
    pending_input BLOB
) STRICT;

CREATE UNIQUE INDEX chunks_live ON chunks (tenant_id, chunk_id) WHERE live = 1;
CREATE INDEX chunks_pending ON chunks (tenant_id, document_id) WHERE live = 1 AND pending_input IS NOT NULL;

CREATE TABLE oplog (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id     INTEGER NOT NULL REFERENCES tenants (id),
    collection_id INTEGER NOT NULL REFERENCES collections (id),
    generation_id INTEGER NOT NULL REFERENCES generations (id),
    document_id   INTEGER NOT NULL REFERENCES documents (id),
    version       INTEGER NOT NULL,
    op            INTEGER NOT NULL CHECK (op IN (1, 2)),
    -- Chunk ids of 16 bytes, one after the other.
    added         BLOB    NOT NULL,
    removed       BLOB    NOT NULL,
    at            INTEGER NOT NULL
) STRICT;

CREATE INDEX oplog_of_generation ON oplog (generation_id);

-- When the indexes of a generation had reached a sequence.
CREATE TABLE watermarks (
    generation_id INTEGER NOT NULL REFERENCES generations (id),
    sequence      INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    PRIMARY KEY (generation_id, sequence)
) STRICT, WITHOUT ROWID;

-- "PLUM": tells this file from other SQLite databases.
PRAGMA application_id = 1347179853;
PRAGMA user_version = 1;
