//! The list of promises.

/// Makes a test of every promise for the implementation that `$open` gives: an async function that returns a guard
/// whose `subject()` borrows a fresh, empty store.
macro_rules! conformance {
    ($open:path) => {
        $crate::store::conformance::conformance!(@tests $open,
            a_collection_is_opened_once,
            collections_are_listed_by_name,
            a_document_is_read_back_whole,
            the_same_again_is_unchanged,
            a_changed_head_keeps_the_version,
            a_changed_title_embeds_again_under_the_same_version,
            changed_content_makes_a_version_and_keeps_the_old_one,
            the_log_names_only_chunks_whose_vector_changed,
            a_deleted_document_is_unknown_to_every_read,
            a_document_that_comes_back_does_not_bring_its_past,
            a_failing_write_harms_no_neighbour,
            writes_to_one_document_apply_in_order,
            concurrent_calls_are_all_durable,
            unknown_documents_cannot_be_deleted_or_embedded,
            embeddings_can_come_later,
            an_embedding_of_an_older_input_is_not_taken,
            a_vector_of_the_callers_own_is_kept_apart,
            a_vector_of_wrong_length_is_refused,
            known_embeddings_are_found_by_embedder_and_input,
            the_same_text_in_other_chunks_keeps_its_version,
            any_text_is_read_back_as_it_was,
            a_collection_without_embedder_waits_for_no_vectors,
            a_document_without_text_is_stored,
            a_long_text_is_read_in_any_place,
            overlapping_chunks_are_read_exactly,
            hydration_keeps_the_order_asked_for,
            neighbours_are_those_of_the_same_version,
            pages_survive_concurrent_writes,
            only_cursors_of_the_same_listing_are_taken,
            tenants_with_the_same_ids_do_not_meet,
            a_document_with_an_acl_is_hidden_from_others,
            pages_skip_what_the_reader_may_not_see,
            sequences_grow_and_can_be_followed,
            each_generation_can_be_followed_alone,
            indexable_documents_are_complete,
            live_counts_follow_every_change,
            indexed_at_is_when_the_index_reached_the_document,
            generations_are_listed_with_their_owners,
            a_call_is_read_back_whole,
            an_attempt_is_kept_once,
            a_record_of_any_size_is_kept_whole,
            an_empty_record_changes_nothing,
            a_trace_is_told_in_order_with_its_spans,
            tenants_do_not_meet_in_the_ledger,
            usage_is_added_up_by_group,
            money_sums_exactly,
            numbers_beyond_the_database_stay_at_its_largest,
            spending_adds_up,
            only_open_periods_are_told,
            a_reservation_goes_with_its_settlement,
            a_budget_is_replaced_by_one_of_its_scope_and_period,
            forgetting_traces_keeps_calls_and_spending,
        );
    };
    (@tests $open:path, $($promise:ident,)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                let fresh = $open().await;
                $crate::store::conformance::promise::$promise(fresh.subject()).await;
            }
        )*
    };
}

pub(crate) use conformance;
