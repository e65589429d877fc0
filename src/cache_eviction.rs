//! Pure: chooses which entries to evict so that a new one fits.
//!
//! The least recently used are evicted first, and pinned ones never. If evicting all others is not
//! enough, none is evicted. Used by the file cache and the chroot store.

use std::time::Duration;

/// An entry of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item<K> {
    pub(crate) key: K,
    pub(crate) bytes: u64,
    /// When it was last used, since 1970.
    pub(crate) used: Duration,
    /// In use, so it must not be evicted.
    pub(crate) pinned: bool,
}

/// How much a cache holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// How much a cache may hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// The most that the cache may hold.
    pub(crate) limit: u64,
    /// The key of that limit in section `[limits]`.
    pub(crate) key: &'static str,
    /// Unfinished entries, which count towards the limit.
    pub(crate) incoming: u64,
    /// Free space of the file system.
    pub(crate) free: u64,
    /// Space that must stay free on the file system.
    pub(crate) reserve: u64,
}

/// Why an entry does not fit even if all unpinned entries are evicted. All in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shortage {
    #[error("no room for {needed} bytes: [limits] {key} is {limit}, of which {in_use} are in use")]
    Limit {
        needed: u64,
        key: &'static str,
        limit: u64,
        in_use: u64,
    },
    #[error(
        "no room for {needed} bytes: {free} are free on the file system, [limits] reserve keeps \
         {reserve}, and eviction frees at most {evictable}"
    )]
    Free {
        needed: u64,
        free: u64,
        reserve: u64,
        evictable: u64,
    },
}

impl Space {
    /// Returns how many bytes must be evicted so that `needed` more fit beside the `kept`.
    pub(crate) fn excess(&self, kept: u64, needed: u64) -> u64 {
        let over = total_bytes([kept, self.incoming, needed]).saturating_sub(self.limit);
        over.max(self.lacking(needed))
    }

    fn lacking(&self, needed: u64) -> u64 {
        total_bytes([needed, self.reserve]).saturating_sub(self.free)
    }

    /// Returns the keys to evict so that `needed` more bytes fit, least recently used first.
    pub(crate) fn plan<K>(&self, items: Vec<Item<K>>, needed: u64) -> Result<Vec<K>, Shortage> {
        let kept = total_bytes(items.iter().map(|item| item.bytes));
        let (pinned, mut loose): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.pinned);
        let in_use =
            total_bytes(pinned.iter().map(|item| item.bytes)).saturating_add(self.incoming);
        let evictable = total_bytes(loose.iter().map(|item| item.bytes));
        if total_bytes([in_use, needed]) > self.limit {
            return Err(Shortage::Limit {
                needed,
                key: self.key,
                limit: self.limit,
                in_use,
            });
        }
        if self.lacking(needed) > evictable {
            return Err(Shortage::Free {
                needed,
                free: self.free,
                reserve: self.reserve,
                evictable,
            });
        }
        loose.sort_by_key(|item| item.used);
        let mut left = self.excess(kept, needed);
        let evicted = loose.into_iter().map_while(|item| {
            let is_evicted = left > 0;
            left = left.saturating_sub(item.bytes);
            is_evicted.then_some(item.key)
        });
        Ok(evicted.collect())
    }
}

fn total_bytes(bytes: impl IntoIterator<Item = u64>) -> u64 {
    bytes.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn item(key: usize, bytes: u64, used: u64, pinned: bool) -> Item<usize> {
        Item {
            key,
            bytes,
            used: Duration::from_secs(used),
            pinned,
        }
    }

    fn space(limit: u64, free: u64, reserve: u64) -> Space {
        Space {
            limit,
            key: "cache_size",
            incoming: 0,
            free,
            reserve,
        }
    }

    #[test]
    fn least_recently_used_is_evicted_first_and_pinned_never() {
        let items = vec![
            item(0, 10, 5, false),
            item(1, 10, 1, true),
            item(2, 10, 3, false),
            item(3, 10, 4, false),
        ];
        let plan = |needed| space(40, u64::MAX, 0).plan(items.clone(), needed);
        assert_eq!(plan(0), Ok(vec![]));
        assert_eq!(plan(1), Ok(vec![2]));
        assert_eq!(plan(20), Ok(vec![2, 3]));
        assert_eq!(plan(30), Ok(vec![2, 3, 0]));
    }

    #[test]
    fn an_entry_that_cannot_fit_evicts_nothing() {
        let items = || vec![item(0, 10, 1, false), item(1, 10, 2, true)];
        let limit = space(20, u64::MAX, 0).plan(items(), 11).unwrap_err();
        assert_eq!(
            limit.to_string(),
            "no room for 11 bytes: [limits] cache_size is 20, of which 10 are in use"
        );
        let full = space(100, 7, 5).plan(items(), 13).unwrap_err();
        assert_eq!(
            full.to_string(),
            "no room for 13 bytes: 7 are free on the file system, [limits] reserve keeps 5, and \
             eviction frees at most 10"
        );
        assert_eq!(space(100, 7, 5).plan(items(), 12), Ok(vec![0]));
    }

    #[test]
    fn unfinished_entries_count_towards_the_limit() {
        let space = Space {
            incoming: 15,
            ..space(20, u64::MAX, 0)
        };
        assert_eq!(space.plan(vec![item(0, 3, 0, false)], 5), Ok(vec![0]));
        assert!(space.plan(vec![item(0, 3, 0, false)], 6).is_err());
    }

    proptest! {
        #[test]
        fn plans_are_minimal_and_ordered(
            raw in prop::collection::vec((0..50_u64, 0..20_u64, any::<bool>()), 0..20),
            (limit, incoming, free, reserve, needed) in
                (0..600_u64, 0..50_u64, 0..300_u64, 0..100_u64, 0..200_u64),
        ) {
            let items: Vec<_> = raw
                .iter()
                .enumerate()
                .map(|(key, &(bytes, used, pinned))| item(key, bytes, used, pinned))
                .collect();
            let space = Space { incoming, ..space(limit, free, reserve) };
            let total = |which: &dyn Fn(&Item<usize>) -> bool| -> u64 {
                items.iter().filter(|item| which(item)).map(|item| item.bytes).sum()
            };
            let could = total(&|item| item.pinned) + incoming + needed <= limit
                && free + total(&|item| !item.pinned) >= reserve + needed;
            let plan = space.plan(items.clone(), needed);
            prop_assert_eq!(plan.is_ok(), could);
            if let Ok(evicted) = plan {
                let unique: HashSet<usize> = evicted.iter().copied().collect();
                prop_assert_eq!(unique.len(), evicted.len());
                let is_evicted = |item: &Item<usize>| unique.contains(&item.key);
                prop_assert_eq!(total(&|item| item.pinned && is_evicted(item)), 0);
                prop_assert!(total(&|item| !is_evicted(item)) + incoming + needed <= limit);
                prop_assert!(free + total(&is_evicted) >= reserve + needed);
                // No evicted entry was used after a kept one, and the last one was necessary.
                for kept in items.iter().filter(|item| !item.pinned && !is_evicted(item)) {
                    prop_assert!(evicted.iter().all(|&key| items[key].used <= kept.used));
                }
                if let Some(&last) = evicted.last() {
                    let without = total(&is_evicted) - items[last].bytes;
                    let kept = total(&|_| true);
                    prop_assert!(without < space.excess(kept, needed));
                }
            }
        }
    }
}
