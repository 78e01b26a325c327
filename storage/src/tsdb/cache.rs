//! A bounded cache of decoded index pages and blocks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Names a piece of a segment: segment number and offset.
pub(super) type Place = (u64, u64);

/// Keeps what was read last, up to a weight; drops the oldest first.
#[derive(Debug)]
pub(super) struct Cache<V> {
    weight_max: usize,
    held: Mutex<Held<V>>,
}

#[derive(Debug)]
struct Held<V> {
    values: HashMap<Place, (Arc<V>, usize)>,
    order: VecDeque<Place>,
    weight: usize,
}

impl<V> Cache<V> {
    pub(super) fn new(weight_max: usize) -> Self {
        let held = Held {
            values: HashMap::new(),
            order: VecDeque::new(),
            weight: 0,
        };
        Self {
            weight_max,
            held: Mutex::new(held),
        }
    }

    /// Gives what is held, or reads and holds it. Two threads may read the same piece at once.
    pub(super) fn get_or<E>(
        &self,
        place: Place,
        read: impl FnOnce() -> Result<(V, usize), E>,
    ) -> Result<Arc<V>, E> {
        if let Some((value, _)) = self.lock().values.get(&place) {
            return Ok(Arc::clone(value));
        }
        let (value, weight) = read()?;
        let value = Arc::new(value);
        self.lock()
            .insert(place, Arc::clone(&value), weight, self.weight_max);
        Ok(value)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held<V>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Held<V> {
    fn insert(&mut self, place: Place, value: Arc<V>, weight: usize, weight_max: usize) {
        if weight > weight_max || self.values.contains_key(&place) {
            return;
        }
        while self.weight + weight > weight_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some((_, freed)) = self.values.remove(&oldest) {
                self.weight -= freed;
            }
        }
        self.values.insert(place, (value, weight));
        self.order.push_back(place);
        self.weight += weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(cache: &Cache<u32>, place: Place, value: u32) -> u32 {
        *cache
            .get_or(place, || Ok::<_, ()>((value, 10)))
            .expect("reading cannot fail")
    }

    #[test]
    fn a_held_piece_is_not_read_again() {
        let cache = Cache::new(100);

        assert_eq!(get(&cache, (1, 0), 5), 5);
        assert_eq!(get(&cache, (1, 0), 6), 5);
    }

    #[test]
    fn the_oldest_piece_makes_room() {
        let cache = Cache::new(20);
        for n in 0..3 {
            get(&cache, (1, n), 5);
        }

        assert_eq!(get(&cache, (1, 2), 6), 5, "the newest is held");
        assert_eq!(get(&cache, (1, 0), 6), 6, "the oldest was dropped");
        assert!(cache.lock().weight <= 20);
    }
}
