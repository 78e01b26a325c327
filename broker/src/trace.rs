//! What operators watch of connections, as it passes. While nobody does, a connection reads one flag.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use admin::trace::Event;
use arc_swap::ArcSwap;
use mqtt::{ClientId, Filter, Topic};
use tokio::sync::mpsc;

/// Traces of a node at a time; more are refused.
pub(crate) const TRACES_MAX: usize = 4;
/// Events that wait for who reads; more are missed.
const WAITING_MAX: usize = 1_024;

/// The traces of a node.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    is_on: AtomicBool,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    /// Held while `taps` changes.
    changing: Mutex<()>,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// All packets of a client.
    Client(ClientId),
    /// Messages of topics, as a publisher sends them and as a subscriber gets them.
    Topic(Filter),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Events a second.
    pub(crate) rate: u64,
    /// Events in all.
    pub(crate) events: u64,
}

/// One trace, as connections see it.
#[derive(Debug)]
struct Tap {
    watched: Watched,
    bounds: Bounds,
    tell: mpsc::Sender<Event>,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    second: u64,
    in_second: u64,
    shown: u64,
    missed: u64,
}

/// A trace, as its reader has it; it ends when dropped.
pub(crate) struct Trace {
    traces: Arc<Traces>,
    tap: Arc<Tap>,
    pub(crate) events: mpsc::Receiver<Event>,
}

impl Traces {
    /// Whether anybody watches anything.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Begins a trace; none when [`TRACES_MAX`] are under way.
    pub(crate) fn begin(self: &Arc<Self>, watched: Watched, bounds: Bounds) -> Option<Trace> {
        let (tell, events) = mpsc::channel(WAITING_MAX);
        let tap = Arc::new(Tap {
            watched,
            bounds,
            tell,
            counted: Mutex::default(),
        });
        let _changing = self.changing();
        let mut taps = self.taps.load().to_vec();
        if taps.len() >= TRACES_MAX {
            return None;
        }
        taps.push(Arc::clone(&tap));
        self.taps.store(Arc::new(taps));
        self.is_on.store(true, Ordering::Relaxed);
        Some(Trace {
            traces: Arc::clone(self),
            tap,
            events,
        })
    }

    /// A packet of a client passes.
    pub(crate) fn of_client(&self, client: &str, event: impl Fn() -> Event) {
        self.offer(
            |watched| matches!(watched, Watched::Client(id) if id.as_str() == client),
            event,
        );
    }

    /// A message passes, from a publisher or to a subscriber.
    pub(crate) fn of_topic(&self, topic: &Topic, event: impl Fn() -> Event) {
        self.offer(
            |watched| matches!(watched, Watched::Topic(filter) if filter.matches(topic)),
            event,
        );
    }

    fn offer(&self, is_watched: impl Fn(&Watched) -> bool, event: impl Fn() -> Event) {
        for tap in self.taps.load().iter() {
            if is_watched(&tap.watched) {
                tap.offer(event());
            }
        }
    }

    fn end(&self, tap: &Arc<Tap>) {
        let _changing = self.changing();
        let mut taps = self.taps.load().to_vec();
        taps.retain(|one| !Arc::ptr_eq(one, tap));
        self.is_on.store(!taps.is_empty(), Ordering::Relaxed);
        self.taps.store(Arc::new(taps));
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    fn offer(&self, event: Event) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.shown >= self.bounds.events {
            return;
        }
        let second = event.at_ms / 1_000;
        if counted.second != second {
            counted.second = second;
            counted.in_second = 0;
        }
        if counted.in_second >= self.bounds.rate || self.tell.try_send(event).is_err() {
            counted.missed += 1;
            return;
        }
        counted.in_second += 1;
        counted.shown += 1;
    }
}

impl Trace {
    /// Events that were not shown.
    pub(crate) fn missed(&self) -> u64 {
        let counted = self.tap.counted.lock();
        counted.unwrap_or_else(PoisonError::into_inner).missed
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.traces.end(&self.tap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64) -> Event {
        Event {
            at_ms,
            ..Event::default()
        }
    }

    fn client(name: &str) -> Watched {
        Watched::Client(name.try_into().expect("a client id"))
    }

    const WIDE: Bounds = Bounds {
        rate: 10,
        events: 100,
    };

    #[test]
    fn only_what_is_watched_is_shown_and_nothing_once_nobody_watches() {
        let traces = Arc::new(Traces::default());
        assert!(!traces.is_on());
        let filter = "d/+".try_into().expect("a filter");
        let mut of_car = traces.begin(client("car"), WIDE).expect("room");
        let mut of_topic = traces.begin(Watched::Topic(filter), WIDE).expect("room");
        assert!(traces.is_on());
        traces.of_client("car", || event(1));
        traces.of_client("cart", || event(2));
        traces.of_topic(&"d/1".try_into().expect("a topic"), || event(3));
        traces.of_topic(&"e/1".try_into().expect("a topic"), || event(4));
        assert_eq!(of_car.events.try_recv().expect("shown").at_ms, 1);
        assert_eq!(of_topic.events.try_recv().expect("shown").at_ms, 3);
        assert!(of_car.events.try_recv().is_err() && of_topic.events.try_recv().is_err());
        drop(of_car);
        assert!(traces.is_on());
        drop(of_topic);
        assert!(!traces.is_on());
    }

    #[test]
    fn a_trace_is_bounded_by_the_second_and_in_all() {
        let traces = Arc::new(Traces::default());
        let bounds = Bounds { rate: 2, events: 3 };
        let mut trace = traces.begin(client("car"), bounds).expect("room");
        for at_ms in [1_000, 1_001, 1_002, 2_000, 2_001] {
            traces.of_client("car", || event(at_ms));
        }
        let mut shown = Vec::new();
        while let Ok(event) = trace.events.try_recv() {
            shown.push(event.at_ms);
        }
        assert_eq!(shown, [1_000, 1_001, 2_000]);
        // The one beyond the rate; after the last nothing is counted any more.
        assert_eq!(trace.missed(), 1);
    }

    #[test]
    fn there_are_so_many_traces_at_a_time() {
        let traces = Arc::new(Traces::default());
        let mut all: Vec<Trace> = (0..TRACES_MAX)
            .map(|_| traces.begin(client("car"), WIDE).expect("room"))
            .collect();
        assert!(traces.begin(client("car"), WIDE).is_none());
        all.pop();
        assert!(traces.begin(client("car"), WIDE).is_some());
    }
}
