# Everyday commands. `just` lists them.

default:
    @just --list

# models, tiny corpus, a search, an answer, then the server
quickstart:
    cargo run -- quickstart

# models, then every test
test:
    cargo run -- models fetch && cargo test

# formatting and lints, as CI runs them
lint:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# quality on the collections at $PLUMB_CORPORA, with one table
evals:
    PLUMB_EVALS_ALL=1 cargo test --test evals

# write today's quality as the baseline that later runs are compared with
evals-accept:
    PLUMB_EVALS_ALL=1 PLUMB_EVALS_ACCEPT=1 cargo test --test evals

# latency over HTTP and ingest rate, compared with the last run
bench:
    cargo bench --bench search

# a change of chunking and of model from beginning to end, with an erasure, against a real server
walk:
    cargo build && tests/walks/generations

# what a change of chunking costs while it happens
bench-generations:
    cargo bench --bench generations

# licences, sources and banned crates; needs cargo-deny
deny:
    cargo deny check bans licenses sources

# takes out one fsync, checksum or watermark at a time: a test must fail each time; hours
mutants *NAMES:
    tests/mutations/run {{NAMES}}

# the binary to ship
dist:
    cargo build --profile dist
