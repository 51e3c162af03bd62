-- Generations beside the live one: documents that stand ready in another generation, and what a change is judged by.

ALTER TABLE generations ADD COLUMN serving_documents INTEGER NOT NULL DEFAULT 0;
-- JSON of a GenerationPlan.
ALTER TABLE generations ADD COLUMN plan TEXT NOT NULL DEFAULT '{}';
-- When the state was entered.
ALTER TABLE generations ADD COLUMN changed_at INTEGER NOT NULL DEFAULT 0;
-- The generation that was live before this one, for as long as it can be gone back to.
ALTER TABLE generations ADD COLUMN previous_id INTEGER REFERENCES generations (id);
-- The task that builds it.
ALTER TABLE generations ADD COLUMN task_id BLOB;
-- When all that belonged to a retired generation was found gone.
ALTER TABLE generations ADD COLUMN removed_at INTEGER;

-- When it last went live; NULL: it never was.
ALTER TABLE generations ADD COLUMN promoted_at INTEGER;

UPDATE generations SET serving_documents = live_documents, changed_at = created_at,
    promoted_at = CASE state WHEN 'live' THEN created_at END;

-- The operation by which the serving generation came to hold the document; NULL: the document's own last one.
ALTER TABLE documents ADD COLUMN placed_by INTEGER;

-- The generation in which a chunk stands ready; NULL for chunks that serve (live = 1) and for those of the past.
ALTER TABLE chunks ADD COLUMN standby_of INTEGER REFERENCES generations (id);
-- What a model has written to stand before the chunk, where the profile asks for that.
ALTER TABLE chunks ADD COLUMN context TEXT;

CREATE INDEX chunks_standby ON chunks (standby_of, chunk_id) WHERE standby_of IS NOT NULL;
-- Which chunks use a vector: tells whether it may go with one of them.
CREATE INDEX chunks_of_embedding ON chunks (embedding_id) WHERE embedding_id IS NOT NULL;
-- A chunking is removed behind its chunks, and SQLite looks for others that refer to it.
CREATE INDEX chunks_of_chunking ON chunks (chunking_id);
CREATE INDEX documents_of_generation ON documents (generation_id) WHERE chunking_id IS NOT NULL;
CREATE INDEX chunkings_of_generation ON chunkings (generation_id);

-- A document's chunks in a generation that does not serve it: made from the content and head that it has now.
CREATE TABLE standbys (
    generation_id INTEGER NOT NULL REFERENCES generations (id),
    document_id   INTEGER NOT NULL REFERENCES documents (id),
    -- Without a constraint, as in `documents`: it would be looked up from the other side.
    chunking_id   INTEGER NOT NULL,
    first_chunk   INTEGER NOT NULL,
    chunk_count   INTEGER NOT NULL,
    -- The operation by which the generation came to hold the document.
    sequence      INTEGER NOT NULL,
    PRIMARY KEY (generation_id, document_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX standbys_of_document ON standbys (document_id);

-- Texts that models wrote about chunks, by what they were written from: nothing is asked twice.
CREATE TABLE contexts (
    tenant_id  INTEGER NOT NULL REFERENCES tenants (id),
    -- Over prompt, model, document and chunk.
    input_hash BLOB    NOT NULL,
    text       TEXT    NOT NULL,
    written_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, input_hash)
) STRICT, WITHOUT ROWID;

-- Queries with the documents that answer them: what a collection's generations are judged by.
CREATE TABLE eval_cases (
    id            INTEGER PRIMARY KEY,
    tenant_id     INTEGER NOT NULL REFERENCES tenants (id),
    collection_id INTEGER NOT NULL REFERENCES collections (id),
    name          TEXT    NOT NULL,
    query         TEXT    NOT NULL,
    -- JSON: document id to grade, from 1.
    relevant      TEXT    NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (collection_id, name)
) STRICT;

-- Live queries that were also put to a generation in shadow.
CREATE TABLE shadow_searches (
    id             INTEGER PRIMARY KEY,
    tenant_id      INTEGER NOT NULL REFERENCES tenants (id),
    generation_id  INTEGER NOT NULL REFERENCES generations (id),
    trace_id       TEXT    NOT NULL,
    mode           TEXT    NOT NULL,
    top_k          INTEGER NOT NULL,
    -- Share of the documents found that both found.
    overlap        REAL    NOT NULL,
    live_us        INTEGER NOT NULL,
    shadow_us      INTEGER NOT NULL,
    at             INTEGER NOT NULL
) STRICT;

CREATE INDEX shadow_searches_of_generation ON shadow_searches (generation_id, id);

PRAGMA user_version = 4;
