//! A map that forgets what is old, so that nothing a run does makes it grow for ever.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// Holds at least the last `generation` entries and at most twice as many.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub(super) fn new(generation: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation,
        }
    }

    /// Make this the newest entry; whether there was none with that key.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        let was_old = self.old.remove(&key).is_some();
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value).is_none() && !was_old
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.young.get_mut(key) {
            Some(value) => Some(value),
            None => self.old.get_mut(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_generation_is_kept_and_older_ones_are_not() {
        let mut recent = Recent::new(10);
        for n in 0..1000_u32 {
            assert!(recent.insert(n, n), "{n} is new");
            for kept in n.saturating_sub(9)..=n {
                assert_eq!(recent.get(&kept), Some(&kept));
            }
            assert_eq!(recent.get(&n.wrapping_sub(20)), None);
        }
        assert!(recent.young.len() + recent.old.len() <= 20);
    }

    #[test]
    fn an_entry_that_is_inserted_again_is_not_new_and_lives_on() {
        let mut recent = Recent::new(2);
        for n in 0..100 {
            assert_eq!(recent.insert("kept", n), n == 0);
            recent.insert("other", 0);
            recent.insert("third", 0);
            assert_eq!(recent.get("kept"), Some(&n));
        }
        *recent.get_mut(&"kept").unwrap() = 7;
        assert_eq!(recent.get("kept"), Some(&7));
    }
}
