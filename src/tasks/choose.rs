//! Whose task is next: tenants share the places fairly, whatever each has in line.
//!
//! Only counts, priorities and numbers of rows enter; no clock does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{TaskKind, TenantId};
use crate::store::{ClaimWish, QueueHead, QueueView};

use super::settings::TaskSettings;

/// When each tenant was served last, as a number that grows. Knows only tenants that have something in line.
#[derive(Debug, Default)]
pub(super) struct Turns {
    served: u64,
    last: BTreeMap<TenantId, u64>,
}

impl Turns {
    /// The tasks to claim, at most `places`, best first.
    ///
    /// The tenant with the fewest running tasks goes first, of equal ones the one served longest ago. Of a tenant the
    /// task with the highest priority goes first, of equal ones the oldest. Kinds and tenants at their limit wait.
    pub(super) fn choose(&mut self, view: &QueueView, places: usize, settings: &TaskSettings) -> Vec<ClaimWish> {
        let mut lines: BTreeMap<&TenantId, Vec<&QueueHead>> = BTreeMap::new();
        for head in &view.heads {
            lines.entry(&head.tenant).or_default().push(head);
        }
        lines.values_mut().for_each(|line| line.sort_by_key(|head| (Reverse(head.priority), head.key)));
        self.last.retain(|tenant, _| lines.contains_key(tenant));
        let mut running = Running::of(view);
        let (mut chosen, mut wishes) = (BTreeSet::new(), Vec::new());
        while wishes.len() < places {
            let firsts = lines.values().filter_map(|line| {
                line.iter().copied().find(|head| !chosen.contains(&head.key) && running.allows(head, settings))
            });
            let turn = |head: &&QueueHead| (running.of_tenant(&head.tenant), self.last.get(&head.tenant).copied());
            let Some(head) = firsts.min_by_key(turn) else { break };
            chosen.insert(head.key);
            running.add(&head.tenant, &head.kind, 1);
            self.served += 1;
            self.last.insert(head.tenant.clone(), self.served);
            wishes.push(ClaimWish {
                key: head.key,
                kind_limit: settings.kind_limit(&head.kind),
                tenant_limit: settings.max_running_per_tenant,
            });
        }
        wishes
    }
}

/// How many tasks run, with those that are about to.
struct Running<'a> {
    tenants: BTreeMap<&'a TenantId, u64>,
    kinds: BTreeMap<&'a TaskKind, u64>,
}

impl<'a> Running<'a> {
    fn of(view: &'a QueueView) -> Self {
        let mut running = Self { tenants: BTreeMap::new(), kinds: BTreeMap::new() };
        view.running.iter().for_each(|(tenant, kind, count)| running.add(tenant, kind, *count));
        running
    }

    fn of_tenant(&self, tenant: &TenantId) -> u64 {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    fn allows(&self, head: &QueueHead, settings: &TaskSettings) -> bool {
        let of_kind = self.kinds.get(&head.kind).copied().unwrap_or_default();
        self.of_tenant(&head.tenant) < settings.max_running_per_tenant && of_kind < settings.kind_limit(&head.kind)
    }

    fn add(&mut self, tenant: &'a TenantId, kind: &'a TaskKind, count: u64) {
        *self.tenants.entry(tenant).or_default() += count;
        *self.kinds.entry(kind).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::TaskKey;

    fn head(key: i64, tenant: &str, kind: &str, priority: i32) -> QueueHead {
        let (tenant, kind) = (TenantId::new(tenant).unwrap(), TaskKind::new(kind).unwrap());
        QueueHead { key: TaskKey(key), tenant, kind, priority }
    }

    fn running(tenant: &str, kind: &str, count: u64) -> (TenantId, TaskKind, u64) {
        (TenantId::new(tenant).unwrap(), TaskKind::new(kind).unwrap(), count)
    }

    fn chosen(turns: &mut Turns, view: &QueueView, places: usize) -> Vec<i64> {
        let settings = TaskSettings {
            max_running_per_tenant: 3,
            max_running_per_kind: [("slow".to_owned(), 1)].into(),
            ..TaskSettings::default()
        };
        turns.choose(view, places, &settings).into_iter().map(|wish| wish.key.0).collect()
    }

    #[test]
    fn the_tenant_with_the_fewest_running_goes_first_and_then_they_take_turns() {
        let heads =
            vec![head(1, "a", "map", 0), head(2, "a", "map", 0), head(3, "b", "map", 0), head(4, "c", "map", 9)];
        let view = QueueView { heads, running: vec![running("c", "map", 2)], next_ready_us: None };

        assert_eq!(chosen(&mut Turns::default(), &view, 4), [1, 3, 2, 4]);
    }

    #[test]
    fn of_equal_tenants_the_one_served_longest_ago_goes_first() {
        let mut turns = Turns::default();
        let view = |keys: [i64; 3]| QueueView {
            heads: ["a", "b", "c"].into_iter().zip(keys).map(|(tenant, key)| head(key, tenant, "map", 0)).collect(),
            ..QueueView::default()
        };

        let served: Vec<i64> = [[1, 2, 3], [4, 2, 3], [4, 5, 3], [4, 5, 6]]
            .iter()
            .flat_map(|keys| chosen(&mut turns, &view(*keys), 1))
            .collect();

        assert_eq!(served, [1, 2, 3, 4]);
    }

    #[test]
    fn of_one_tenant_the_highest_priority_goes_first_then_the_oldest() {
        let heads = vec![head(3, "a", "map", 0), head(7, "a", "fold", 5), head(2, "a", "fold", 0)];
        let view = QueueView { heads, ..QueueView::default() };

        assert_eq!(chosen(&mut Turns::default(), &view, 9), [7, 2, 3]);
    }

    #[test]
    fn a_kind_at_its_limit_lets_the_others_pass() {
        let heads = vec![head(1, "a", "slow", 9), head(2, "a", "slow", 9), head(3, "a", "map", 0)];
        let view = QueueView { heads, ..QueueView::default() };

        assert_eq!(chosen(&mut Turns::default(), &view, 9), [1, 3]);
    }

    proptest! {
        #[test]
        fn no_limit_is_passed_and_no_place_is_left_empty_that_a_task_may_take(
            heads in prop::collection::vec((0_usize..4, 0_usize..3, -2_i32..3), 0..40),
            busy in prop::collection::vec((0_usize..4, 0_usize..3, 0_u64..4), 0..6),
            places in 0_usize..20,
        ) {
            let (tenants, kinds) = (["a", "b", "c", "d"], ["slow", "map", "fold"]);
            let heads = heads.iter().enumerate().map(|(key, (tenant, kind, priority))| {
                head(key as i64, tenants[*tenant], kinds[*kind], *priority)
            }).collect();
            let busy = busy.iter().map(|(tenant, kind, count)| running(tenants[*tenant], kinds[*kind], *count)).collect();
            let view = QueueView { heads, running: busy, next_ready_us: None };
            let settings = TaskSettings {
                max_running: 9,
                max_running_per_tenant: 3,
                max_running_per_kind: [("slow".to_owned(), 1)].into(),
                ..TaskSettings::default()
            };

            let wishes = Turns::default().choose(&view, places, &settings);

            prop_assert!(wishes.len() <= places);
            let mut counted = Running::of(&view);
            let mut keys = BTreeSet::new();
            for wish in &wishes {
                let head = view.heads.iter().find(|head| head.key == wish.key).unwrap();
                prop_assert!(keys.insert(wish.key));
                prop_assert!(counted.allows(head, &settings));
                // Nobody with fewer running tasks was passed over.
                let is_fair = view.heads.iter().filter(|other| !keys.contains(&other.key) && counted.allows(other, &settings))
                    .all(|other| counted.of_tenant(&other.tenant) >= counted.of_tenant(&head.tenant));
                prop_assert!(is_fair);
                counted.add(&head.tenant, &head.kind, 1);
            }
            if wishes.len() < places {
                let left = view.heads.iter().find(|head| !keys.contains(&head.key) && counted.allows(head, &settings));
                prop_assert_eq!(left, None);
            }
        }
    }
}
