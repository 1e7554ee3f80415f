//! A map that drops useless entries now and then.
//!
//! Invariant: it holds at most twice as many entries as were useful at the last look through it, or a few. A look through the
//! whole map at each insertion would make the cost of an insertion grow with the number of entries.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Deref, DerefMut};

/// The least number of entries at which a map is looked through.
const FEW: usize = 64;

#[derive(Debug)]
pub struct Pruned<K, V> {
    entries: HashMap<K, V>,
    /// The number of entries at which the map is looked through.
    at: usize,
}

impl<K, V> Default for Pruned<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), at: FEW }
    }
}

impl<K: Eq + Hash, V> Pruned<K, V> {
    /// Called before an insertion: drops the entries that are not to be kept, if there are many.
    pub fn make_room(&mut self, mut keep: impl FnMut(&V) -> bool) {
        if self.entries.len() >= self.at {
            self.entries.retain(|_, value| keep(value));
            self.at = (2 * self.entries.len()).max(FEW);
        }
    }
}

impl<K, V> Deref for Pruned<K, V> {
    type Target = HashMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl<K, V> DerefMut for Pruned<K, V> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_and_the_size_are_bounded() {
        let mut map = Pruned::default();
        let (mut looked_at, mut most) = (0, 0);
        for number in 0..100_000 {
            // The last thousand are useful.
            map.make_room(|value| {
                looked_at += 1;
                number - *value <= 1000
            });
            map.insert(number, number);
            most = most.max(map.len());
        }
        assert!(most <= 2 * 1001, "{most}");
        assert!(looked_at <= 3 * 100_000, "{looked_at}: a constant number for each insertion");
    }
}
