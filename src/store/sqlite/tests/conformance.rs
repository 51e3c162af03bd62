//! SQLite against the contract.

use proptest::prelude::*;

use crate::store::check_truth;
use crate::store::conformance::{conformance, deeds, live, moves, replay, rollout, steps};

use super::fixture::fresh;

conformance!(super::fixture::fresh);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_history_leads_to_what_a_plain_map_would_hold(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fresh = fresh().await;
            replay(fresh.subject(), &steps).await;
            fresh.store.close().await.unwrap();
        });
    }

    #[test]
    fn any_rollout_serves_each_document_from_one_generation(moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fresh = fresh().await;
            rollout(fresh.subject(), &moves).await;
            fresh.store.close().await.unwrap();
            assert_eq!(check_truth(&fresh.path()).await.unwrap().findings, [""; 0]);
        });
    }

    #[test]
    fn any_life_of_tasks_is_what_a_plain_list_would_tell(deeds in deeds()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fresh = fresh().await;
            live(fresh.subject(), &deeds).await;
            fresh.store.close().await.unwrap();
        });
    }
}
