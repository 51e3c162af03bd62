//! What the contract of [`LexicalIndex`] promises, kept by [`TantivyIndex`]; beside a model that scans everything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::domain::{
    ChunkId, DocumentId, Fields, Filter, Metadata, Principal, ScoredChunk, Sequence, Timestamp, Visibility, hash_parts,
};
use crate::index::{
    IndexError, LexicalChange, LexicalChunk, LexicalDocument, LexicalIndex, LexicalSettings, Narrowing, TantivyIndex,
    analyzer_spec,
};

const ALL: Narrowing<'static> = Narrowing { filter: None, visibility: &Visibility::All };

fn open(directory: &Path) -> TantivyIndex {
    TantivyIndex::open(directory, &LexicalSettings::default(), &analyzer_spec("en")).unwrap()
}

fn chunk_id(document: &str, ordinal: usize) -> ChunkId {
    ChunkId(hash_parts(&[document.as_bytes(), &ordinal.to_be_bytes()]))
}

fn document(id: &str, texts: &[&str]) -> LexicalDocument {
    let chunk = |(ordinal, text): (usize, &&str)| LexicalChunk {
        id: chunk_id(id, ordinal),
        text: (*text).to_owned(),
        heading_path: Vec::new(),
        metadata: Metadata::new(),
    };
    LexicalDocument {
        id: DocumentId::new(id).unwrap(),
        title: None,
        source_uri: None,
        media_type: "text/plain".to_owned(),
        acl: None,
        created_at: Timestamp(1_714_521_600_000_000),
        updated_at: Timestamp(1_714_521_600_000_000),
        chunks: texts.iter().enumerate().map(chunk).collect(),
    }
}

fn put(document: LexicalDocument) -> LexicalChange {
    LexicalChange::Put(Box::new(document))
}

fn remove(id: &str) -> LexicalChange {
    LexicalChange::Remove(DocumentId::new(id).unwrap())
}

/// An index of one-chunk documents named `0`, `1`, ….
fn index_of(texts: &[&str]) -> (TempDir, TantivyIndex) {
    let directory = tempfile::tempdir().unwrap();
    let index = open(directory.path());
    let puts = texts.iter().enumerate().map(|(id, text)| put(document(&id.to_string(), &[text])));
    index.apply(puts.collect()).unwrap();
    index.commit(Sequence(1)).unwrap();
    (directory, index)
}

fn found(index: &TantivyIndex, text: &str) -> Vec<ChunkId> {
    index.search(text, ALL, 1000).unwrap().into_iter().map(|hit| hit.id).collect()
}

/// The numbers of the one-chunk documents that a query finds, best first.
fn numbers(index: &TantivyIndex, text: &str, of: usize) -> Vec<usize> {
    let place = |id| (0..of).find(|number| chunk_id(&number.to_string(), 0) == id).unwrap();
    found(index, text).into_iter().map(place).collect()
}

mod lifecycle {
    use super::*;

    // A process was killed between writing a deletion list and naming it in a commit. The replay came to the same name,
    // the engine found it taken, and the index stayed behind until it was rebuilt.
    #[test]
    fn a_deletion_list_that_a_killed_process_left_does_not_stop_the_replay() {
        let (directory, index) = index_of(&["a white whale", "a ship", "an island"]);
        drop(index);
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let segment = names.filter_map(|name| name.into_string().ok()).find(|name| name.ends_with(".store")).unwrap();
        let segment = segment.trim_end_matches(".store");
        for operation in 0..100 {
            std::fs::write(directory.path().join(format!("{segment}.{operation}.del")), "cut").unwrap();
        }

        let index = open(directory.path());
        index.apply(vec![put(document("1", &["a boat"])), remove("2")]).unwrap();
        index.commit(Sequence(2)).unwrap();

        assert_eq!(numbers(&index, "whale boat ship island", 3), [1, 0]);
        assert_eq!((index.live_chunks(), index.watermark()), (2, Sequence(2)));
        drop(index);
        assert_eq!(open(directory.path()).live_chunks(), 2);
    }

    #[test]
    fn a_purged_index_has_only_files_that_never_held_what_was_removed() {
        // Of so few, one that is removed does not make the engine write the segment anew by itself.
        let (directory, index) = index_of(&["a white whale", "a ship", "an island", "a sail", "a storm"]);
        let files = || -> BTreeSet<String> {
            let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
            names.filter_map(|name| name.into_string().ok()).filter(|name| name.len() > 32).collect()
        };
        let before = files();
        index.apply(vec![remove("0")]).unwrap();
        assert!(!index.purge().unwrap(), "changes are buffered");
        index.commit(Sequence(2)).unwrap();
        index.compact().unwrap();
        assert!(!files().is_disjoint(&before), "one segment alone is not written anew by compacting");

        assert!(index.purge().unwrap());

        assert!(files().is_disjoint(&before));
        assert_eq!((index.live_chunks(), index.watermark(), index.segments()), (4, Sequence(2), 1));
        assert_eq!(numbers(&index, "whale ship island", 5).len(), 2);
        index.apply(["1", "2", "3", "4"].map(remove).into()).unwrap();
        index.commit(Sequence(3)).unwrap();
        assert!(index.purge().unwrap());
        assert!(files().is_empty(), "{:?}", files());
        drop(index);
        assert_eq!(open(directory.path()).watermark(), Sequence(3));
    }

    #[test]
    fn what_is_applied_is_found_after_the_commit_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());

        index.apply(vec![put(document("a", &["a white whale", "a ship"]))]).unwrap();

        assert_eq!((index.live_chunks(), index.watermark()), (0, Sequence(0)));
        assert!(found(&index, "whale").is_empty());
        index.commit(Sequence(3)).unwrap();
        assert_eq!((index.live_chunks(), index.watermark()), (2, Sequence(3)));
        assert_eq!(found(&index, "whale"), [chunk_id("a", 0)]);
    }

    #[test]
    fn a_put_replaces_and_a_remove_removes_also_within_one_commit() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        index.apply(vec![put(document("a", &["old whale", "old ship"])), put(document("b", &["bee"]))]).unwrap();
        index.commit(Sequence(1)).unwrap();

        index
            .apply(vec![
                put(document("a", &["first try"])),
                put(document("a", &["new whale"])),
                put(document("c", &["sea"])),
                remove("c"),
                remove("b"),
                remove("never there"),
            ])
            .unwrap();
        index.commit(Sequence(2)).unwrap();

        assert_eq!(index.live_chunks(), 1);
        assert!(found(&index, "old ship bee first sea").is_empty());
        assert_eq!(found(&index, "whale"), [chunk_id("a", 0)]);
    }

    #[test]
    fn everything_committed_is_there_after_reopening_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        index.apply(vec![put(document("a", &["whale"]))]).unwrap();
        index.commit(Sequence(5)).unwrap();
        index.commit(Sequence(6)).unwrap();
        index.apply(vec![put(document("b", &["whale"]))]).unwrap();
        drop(index);

        let index = open(directory.path());

        assert_eq!((index.live_chunks(), index.watermark()), (1, Sequence(6)));
        assert_eq!(found(&index, "whale"), [chunk_id("a", 0)]);
    }

    #[test]
    fn a_released_writer_comes_back_and_compaction_changes_nothing_but_segments() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        for number in 0..3_u64 {
            index.apply(vec![put(document(&number.to_string(), &["whale"]))]).unwrap();
            index.commit(Sequence(number)).unwrap();
            index.release_writer().unwrap();
        }
        let before = found(&index, "whale");

        index.compact().unwrap();

        assert_eq!(index.segments(), 1);
        assert_eq!(found(&index, "whale"), before);
        assert_eq!((index.live_chunks(), index.watermark()), (3, Sequence(2)));
        index.apply(vec![remove("1")]).unwrap();
        index.release_writer().unwrap();
        index.commit(Sequence(9)).unwrap();
        assert_eq!(index.live_chunks(), 2);
    }

    #[test]
    fn another_analyzer_and_damage_are_named_as_corrupt() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        index.apply(vec![put(document("a", &["whale"]))]).unwrap();
        index.commit(Sequence(1)).unwrap();
        drop(index);
        let settings = LexicalSettings::default();
        let refusal = |spec| match TantivyIndex::open(directory.path(), &settings, &analyzer_spec(spec)) {
            Err(IndexError::Corrupt { path, detail }) => {
                assert_eq!(path, directory.path().display().to_string());
                detail
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it opened"),
        };

        assert!(refusal("de").contains("analyzer"));
        let segment = std::fs::read_dir(directory.path())
            .unwrap()
            .flatten()
            .find(|entry| entry.path().extension().is_some_and(|extension| extension == "idx"));
        let segment = segment.unwrap().path();
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        assert!(refusal("en").contains("damaged"));
        std::fs::write(directory.path().join("meta.json"), "{").unwrap();
        refusal("en");
        std::fs::remove_file(directory.path().join("meta.json")).unwrap();
        assert!(refusal("en").contains("missing"));
    }

    #[test]
    fn a_commit_that_lost_a_chunk_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        index.apply(vec![put(document("a", &["whale"]))]).unwrap();
        index.commit(Sequence(1)).unwrap();
        index.apply(vec![put(document("b", &["ship"]))]).unwrap();

        index.lose_what_is_buffered();

        let error = index.commit(Sequence(2)).unwrap_err();
        let IndexError::CommitNotHeld { meant_live: 2, found_live: 1, .. } = error else { panic!("{error}") };
        assert_eq!((index.live_chunks(), index.watermark()), (1, Sequence(1)));
        index.apply(vec![put(document("b", &["ship"]))]).unwrap();
        index.commit(Sequence(2)).unwrap();
        assert_eq!((index.live_chunks(), index.watermark()), (2, Sequence(2)));
    }

    #[test]
    fn after_a_lost_commit_a_restart_asks_for_a_rebuild() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        index.apply(vec![put(document("b", &["ship"]))]).unwrap();
        index.lose_what_is_buffered();
        index.commit(Sequence(2)).unwrap_err();
        drop(index);

        let reopened = TantivyIndex::open(directory.path(), &LexicalSettings::default(), &analyzer_spec("en"));

        assert!(matches!(reopened, Err(IndexError::Corrupt { .. })));
    }

    #[test]
    fn hostile_text_harms_neither_the_writer_nor_its_neighbours() {
        let long_word = "x".repeat(100_000);
        let control = "\u{0}\u{1}\u{ffff}\u{202e} \u{1f980}";
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        let mut poison = document("poison", &[&long_word, control, ""]);
        poison.title = Some(long_word.clone());
        let keys: Metadata = (0..1000).map(|key| (format!("k.{key}\u{1}"), json!([key, {"deep": [1]}]))).collect();
        poison.chunks[0].metadata = keys;

        index.apply(vec![put(document("a", &["whale"])), put(poison), put(document("b", &["whale"]))]).unwrap();
        index.commit(Sequence(1)).unwrap();

        assert_eq!(index.live_chunks(), 5);
        assert_eq!(found(&index, "whale").len(), 2);
        assert_eq!(found(&index, &long_word).len(), 3);
    }
}

mod ranking {
    use super::*;

    #[test]
    fn inflections_match_titles_count_and_a_query_is_never_syntax() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        let mut titled = document("titled", &["It swims in the sea."]);
        titled.title = Some("Whales".to_owned());
        let mut headed = document("headed", &["It swims in the sea."]);
        headed.chunks[0].heading_path = vec!["Animals".to_owned(), "The whale".to_owned()];
        index.apply(vec![put(titled), put(headed), put(document("other", &["A ship swims."]))]).unwrap();
        index.commit(Sequence(1)).unwrap();

        let found: HashSet<_> = found(&index, "whaling whale").into_iter().collect();

        assert_eq!(found, [chunk_id("titled", 0), chunk_id("headed", 0)].into());
        for syntax in
            ["title:whale AND (", "\"unclosed", "body:*", "whale^", "+-!(){}[]^\"~*?:\\/", "whale~9", "a TO b]"]
        {
            index.search(syntax, ALL, 10).unwrap();
        }
        assert_eq!(super::found(&index, "NOT whale").len(), 2);
    }

    #[test]
    fn identifiers_find_the_document_that_holds_them_first() {
        const HOLDERS: [(&str, &str); 12] = [
            ("ERR_CONN_4012", "The log may show ERR_CONN_4012 when a peer is gone, among many other things it says."),
            ("v2.13.1", "Released in spring, v2.13.1 changed how pages are kept, and little else worth telling."),
            ("O'Neill", "A letter by O\u{2019}Neill was found in the archive, unsigned and without any date at all."),
            ("C++", "One part is written in C++, which took the team longer than anybody had thought it would."),
            ("C#", "The desktop client is written in C#, and nobody has asked for another one in years."),
            ("node.js", "It needs Node.js at build time only; the finished program runs without it everywhere."),
            ("RFC-9457", "Problems are told as RFC-9457 says, with a type, a title, a status and some detail."),
            ("192.168.0.1", "The router answers at 192.168.0.1:8080 from inside, and not at all from outside."),
            ("foo::bar", "Call foo::bar(x) first, or nothing that follows will have the effect that you want."),
            ("--max-old-space-size", "Start it with --max-old-space-size=4096 if memory runs out before it is done."),
            ("IndexWriter", "Only one IndexWriter may be open at a time, whoever holds the lock owns the directory."),
            ("AT&T", "The line was laid by AT&T long ago, and it is still the only one to that valley."),
        ];
        let parts = "err conn 4012 v2 13 1 o neill c node js rfc 9457 192 168 0 1 foo bar max old space size index \
                     writer indexwriters at t v2.13.2 ERR_CONN foo:bar C 192.168.0.10 node-js";
        let crowded = parts.repeat(20);
        let mut texts: Vec<&str> = HOLDERS.iter().map(|(_, text)| *text).collect();
        texts.extend([crowded.as_str(); 8]);
        texts.extend(parts.split_whitespace());
        let (_directory, index) = index_of(&texts);

        for (holder, (identifier, _)) in HOLDERS.iter().enumerate() {
            for query in
                [(*identifier).to_owned(), format!("{identifier}?"), format!("what does \"{identifier}\" mean")]
            {
                assert_eq!(numbers(&index, &query, texts.len()).first(), Some(&holder), "{query}");
            }
        }
    }

    #[test]
    fn equal_scores_are_ordered_by_chunk_id_also_at_the_cut() {
        let (_directory, index) = index_of(&["same words"; 50]);
        let mut expected: Vec<_> = (0..50).map(|number| chunk_id(&number.to_string(), 0)).collect();
        expected.sort();

        assert_eq!(found(&index, "words"), expected);
        for depth in [0, 1, 7, 49, 50, 51, usize::MAX] {
            let ids: Vec<_> = index.search("words", ALL, depth).unwrap().into_iter().map(|hit| hit.id).collect();
            assert_eq!(ids, expected[..depth.min(50)]);
        }
    }

    #[test]
    fn no_score_passes_the_ceiling_and_an_unknown_query_has_none() {
        let (_directory, index) = index_of(&["whale whale whale v1.2 whale", "a ship", "v1.2", "of and to"]);

        for query in ["whale", "whale ship", "v1.2 whale", "whale whale whale", "of and"] {
            let ceiling = index.score_ceiling(query).unwrap();
            let best = index.search(query, ALL, 1).unwrap()[0].score;
            assert!(best > 0.0 && best <= ceiling, "{query}: {best} of {ceiling}");
        }
        assert_eq!(index.score_ceiling("unheard").unwrap(), 0.0);
        assert!(found(&index, "unheard").is_empty());
        assert!(found(&index, "").is_empty());
    }

    #[test]
    fn of_too_many_terms_the_rarest_are_kept() {
        let texts: Vec<String> = (0..200).map(|number| format!("common word{number}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let directory = tempfile::tempdir().unwrap();
        let settings = LexicalSettings { max_query_terms: 1, ..LexicalSettings::default() };
        let index = TantivyIndex::open(directory.path(), &settings, &analyzer_spec("en")).unwrap();
        let puts = texts.iter().enumerate().map(|(id, text)| put(document(&id.to_string(), &[text])));
        index.apply(puts.collect()).unwrap();
        index.commit(Sequence(1)).unwrap();
        let endless: String = (0..10_000).map(|number| format!("nothing{number} ")).collect();

        assert_eq!(numbers(&index, "common word7", 200), [7]);
        assert!(found(&index, &endless).is_empty());
    }

    #[test]
    fn every_script_finds_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let index = TantivyIndex::open(directory.path(), &LexicalSettings::default(), &analyzer_spec("auto")).unwrap();
        let texts = [
            (
                "Die Panthers-Abwehr gab nur 308 Punkte ab und belegte damit den sechsten Platz in der ganzen Liga.",
                "Punkt",
            ),
            ("La defensa de los Panthers solo permitió 308 puntos, quedando sexta en la liga de este año.", "punto"),
            ("Защита команды пропустила всего 308 очков, заняв шестое место в лиге среди всех команд.", "командой"),
            ("黑豹队的防守只丢了308分，在联赛中排名第六。", "防守"),
            ("東京都は日本の首都であり、世界最大の都市のひとつです。", "首都"),
            ("서울은 대한민국의 수도이자 최대 도시이다.", "대한민국"),
            ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เมืองหลวง"),
            ("दिल्ली भारत की राजधानी है और एक बड़ा नगर भी है।", "राजधानी"),
            ("Η άμυνα των Panthers δέχτηκε μόλις 308 πόντους και κατέλαβε την έκτη θέση στο πρωτάθλημα.", "πόντων"),
        ];
        let puts = texts.iter().enumerate().map(|(id, (text, _))| put(document(&id.to_string(), &[text])));
        index.apply(puts.collect()).unwrap();
        index.commit(Sequence(1)).unwrap();

        for (number, (_, query)) in texts.iter().enumerate() {
            assert_eq!(numbers(&index, query, texts.len()).first(), Some(&number), "{query}");
        }
    }
}

mod narrowing {
    use super::*;

    /// The fields of a document as the truth shows them to a filter.
    struct Shown<'a> {
        document: &'a LexicalDocument,
        metadata: &'a Metadata,
    }

    impl Fields for Shown<'_> {
        fn field(&self, name: &str) -> Option<Value> {
            let time = |time: Timestamp| json!(jiff::Timestamp::from_microsecond(time.0).unwrap().to_string());
            match name {
                "document_id" => Some(json!(self.document.id.as_str())),
                "title" => self.document.title.as_ref().map(|title| json!(title)),
                "source_uri" => self.document.source_uri.as_ref().map(|uri| json!(uri)),
                "media_type" => Some(json!(self.document.media_type)),
                "created_at" => Some(time(self.document.created_at)),
                "updated_at" => Some(time(self.document.updated_at)),
                other => self.metadata.field(other),
            }
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..4).prop_map(Value::from),
            (-3_i32..4).prop_map(|half| json!(f64::from(half) / 2.0)),
            Just(json!(u64::MAX)),
            "[a-c]{0,2}".prop_map(Value::from),
            "[ab]{1}".prop_map(|end| json!("long ".repeat(40) + &end)),
            Just(json!("2024-05-01")),
        ];
        prop_oneof![
            4 => scalar.clone(),
            1 => proptest::collection::vec(scalar.clone(), 0..4).prop_map(Value::from),
            1 => scalar.prop_map(|value| json!({"nested": value, "list": [[value]]})),
        ]
    }

    fn field() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "[xy]|x\\.y",
            1 => Just("title".to_owned()),
            1 => Just("document_id".to_owned()),
            1 => Just("created_at".to_owned()),
            1 => Just("media_type".to_owned()),
        ]
    }

    fn filter() -> impl Strategy<Value = Value> {
        let scalar = value().prop_filter("a scalar", |value| !value.is_array() && !value.is_object()).boxed();
        let ordered = scalar.clone().prop_filter("ordered", |value| value.is_number() || value.is_string());
        let compare = prop_oneof![
            (field(), scalar.clone()).prop_map(|(field, value)| json!({field: {"$eq": value}})),
            (field(), scalar.clone()).prop_map(|(field, value)| json!({field: {"$ne": value}})),
            (field(), proptest::collection::vec(scalar, 0..3))
                .prop_map(|(field, values)| json!({field: {"$in": values}})),
            (field(), "\\$(gt|gte|lt|lte)", ordered).prop_map(|(field, test, value)| json!({field: {test: value}})),
            (field(), any::<bool>()).prop_map(|(field, there)| json!({field: {"$exists": there}})),
        ];
        compare.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(|all| json!({"$and": all})),
                proptest::collection::vec(inner.clone(), 0..3).prop_map(|any| json!({"$or": any})),
                inner.prop_map(|not| json!({"$not": not})),
            ]
        })
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        proptest::collection::btree_map("[xy]|x\\.y|title|created_at", value(), 0..4)
            .prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn what_the_truth_lets_pass_is_never_left_out(
            metadatas in proptest::collection::vec(metadata(), 1..20),
            filters in proptest::collection::vec(filter(), 1..30),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let index = open(directory.path());
            let documents: Vec<_> = metadatas.into_iter().enumerate().map(|(number, metadata)| {
                let mut document = document(&number.to_string(), &["whale"]);
                document.title = (number % 2 == 0).then(|| "a".to_owned());
                document.chunks[0].metadata = metadata;
                document
            }).collect();
            index.apply(documents.iter().cloned().map(put).collect()).unwrap();
            index.commit(Sequence(1)).unwrap();

            for filter in filters {
                let filter = Filter::parse(&filter).unwrap();
                let narrowing = Narrowing { filter: Some(&filter), visibility: &Visibility::All };
                let matching = index.matching(narrowing).unwrap().unwrap();
                let hits: HashSet<_> = index.search("whale", narrowing, 100).unwrap().into_iter().map(|hit| hit.id).collect();
                prop_assert_eq!(&hits, &matching);
                for document in &documents {
                    let metadata = &document.chunks[0].metadata;
                    let passes = filter.matches(&Shown { document, metadata });
                    let kept = matching.contains(&document.chunks[0].id);
                    prop_assert!(kept || !passes, "{:?} leaves out {:?}", &filter, metadata);
                    let plain = !metadata.contains_key("title") && !metadata.contains_key("created_at");
                    let sure = ["title", "created_at", "long"].iter().all(|word| !format!("{filter:?}").contains(word));
                    let short = !format!("{metadata:?}").contains("long");
                    prop_assert!(passes || !kept || !(plain && sure && short), "{:?} lets {:?} pass", &filter, metadata);
                }
            }
        }
    }

    #[test]
    fn an_acl_is_kept_and_nothing_is_narrowed_for_those_who_see_all() {
        let directory = tempfile::tempdir().unwrap();
        let index = open(directory.path());
        let with_acl = |id: &str, acl: Option<&[&str]>| {
            let acl = acl.map(|acl| acl.iter().map(|one| (*one).to_owned()).collect());
            put(LexicalDocument { acl, ..document(id, &["whale"]) })
        };
        index
            .apply(vec![
                with_acl("open", None),
                with_acl("eng", Some(&["group:eng", "user:ann"])),
                with_acl("hr", Some(&["group:hr"])),
                with_acl("nobody", Some(&[])),
            ])
            .unwrap();
        index.commit(Sequence(1)).unwrap();
        let seen = |principals: &[&str]| {
            let principals: BTreeSet<_> = principals.iter().map(|name| Principal::new(name).unwrap()).collect();
            let visibility = Visibility::Principals(principals);
            let narrowing = Narrowing { filter: None, visibility: &visibility };
            let shared = index.matching_shared(narrowing).unwrap().unwrap();
            assert_eq!(index.matching(narrowing).unwrap().as_ref(), Some(&*shared));
            let hits = index.search("whale", narrowing, 10).unwrap();
            assert_eq!(hits.iter().map(|hit| hit.id).collect::<HashSet<_>>(), *shared);
            ["open", "eng", "hr", "nobody"]
                .into_iter()
                .filter(|id| shared.contains(&chunk_id(id, 0)))
                .collect::<Vec<_>>()
        };

        assert_eq!(seen(&[]), ["open"]);
        assert_eq!(seen(&["user:ann"]), ["open", "eng"]);
        assert_eq!(seen(&["group:hr", "group:eng"]), ["open", "eng", "hr"]);
        assert_eq!(index.matching(ALL).unwrap(), None);
    }

    #[test]
    fn a_remembered_narrowing_ends_with_its_snapshot() {
        let (_directory, index) = index_of(&["whale"]);
        let filter = Filter::parse(&json!({"media_type": "text/plain"})).unwrap();
        let narrowing = Narrowing { filter: Some(&filter), visibility: &Visibility::All };
        assert_eq!(index.matching(narrowing).unwrap().unwrap().len(), 1);

        index.apply(vec![put(document("later", &["whale"]))]).unwrap();
        index.commit(Sequence(2)).unwrap();

        assert_eq!(index.matching(narrowing).unwrap().unwrap().len(), 2);
    }

    #[test]
    fn times_narrow_by_text_in_rfc_3339() {
        let (_directory, index) = index_of(&["whale"]);
        let passes = |filter: Value| {
            let filter = Filter::parse(&filter).unwrap();
            !index
                .matching(Narrowing { filter: Some(&filter), visibility: &Visibility::All })
                .unwrap()
                .unwrap()
                .is_empty()
        };

        assert!(passes(json!({"created_at": {"$gte": "2024-05-01", "$lt": "2024-06"}})));
        assert!(!passes(json!({"created_at": {"$gt": "2024-05-02"}})));
        assert!(!passes(json!({"$not": {"created_at": {"$lt": "2025"}}})));
        assert!(passes(json!({"created_at": {"$gt": "whenever"}})));
    }
}

mod model {
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, Vec<Vec<u8>>),
        Remove(u8),
        Commit,
        Release,
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let words = proptest::collection::vec(0_u8..8, 0..6);
        prop_oneof![
            8 => (0_u8..6, proptest::collection::vec(words, 0..4)).prop_map(|(id, chunks)| Step::Put(id, chunks)),
            3 => (0_u8..6).prop_map(Step::Remove),
            4 => Just(Step::Commit),
            1 => Just(Step::Release),
            1 => Just(Step::Reopen),
        ]
    }

    type Held = BTreeMap<u8, Vec<Vec<u8>>>;

    fn expected(held: &Held, word: u8) -> HashSet<ChunkId> {
        let chunks = held.iter().flat_map(|(id, chunks)| chunks.iter().enumerate().map(move |chunk| (id, chunk)));
        let holding = chunks.filter(|(_, (_, words))| words.contains(&word));
        holding.map(|(id, (ordinal, _))| chunk_id(&id.to_string(), ordinal)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn any_history_leaves_what_the_model_holds(steps in proptest::collection::vec(step(), 1..40)) {
            let directory = tempfile::tempdir().unwrap();
            let mut index = open(directory.path());
            let (mut buffered, mut held) = (Held::new(), Held::new());
            let mut sequence = 0;
            for step in steps {
                match step {
                    Step::Put(id, chunks) => {
                        let texts: Vec<String> =
                            chunks.iter().map(|words| words.iter().map(|word| format!("word{word} ")).collect()).collect();
                        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                        index.apply(vec![put(document(&id.to_string(), &texts))]).unwrap();
                        buffered.insert(id, chunks);
                    }
                    Step::Remove(id) => {
                        index.apply(vec![remove(&id.to_string())]).unwrap();
                        buffered.remove(&id);
                    }
                    Step::Commit => {
                        sequence += 1;
                        index.commit(Sequence(sequence)).unwrap();
                        held = buffered.clone();
                    }
                    Step::Release => index.release_writer().unwrap(),
                    Step::Reopen => {
                        drop(index);
                        index = open(directory.path());
                        buffered = held.clone();
                    }
                }
                prop_assert_eq!(index.watermark(), Sequence(sequence));
                prop_assert_eq!(index.live_chunks(), held.values().map(|chunks| chunks.len() as u64).sum::<u64>());
            }
            for word in 0..8 {
                let hits = index.search(&format!("word{word}"), ALL, 100).unwrap();
                prop_assert!(hits.is_sorted_by(|a: &ScoredChunk, b| a.score > b.score || (a.score == b.score && a.id < b.id)));
                prop_assert_eq!(hits.into_iter().map(|hit| hit.id).collect::<HashSet<_>>(), expected(&held, word));
            }
        }
    }

    #[test]
    fn scores_are_those_of_the_formula() {
        // Two documents of two and four words; `whale` is in one of them, twice.
        let (_directory, index) = index_of(&["whale whale", "one red ship sails"]);
        let settings = LexicalSettings::default();
        let idf = (1.0_f32 + 1.5 / 1.5).ln();
        let frequency = 2.0 / (1.0 - settings.body_b + settings.body_b * 2.0 / 3.0);
        let by_hand = idf * (settings.k1 + 1.0) * frequency / (settings.k1 + frequency);

        let hits = index.search("whales", ALL, 10).unwrap();

        assert_eq!(hits.len(), 1);
        assert!((hits[0].score - by_hand).abs() < 1e-5, "{} {by_hand}", hits[0].score);
    }
}
