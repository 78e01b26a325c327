//! The routes of one node's clean sessions.

use std::collections::BTreeMap;

use mqtt::Filter;

use super::{Deltas, RouteDelta, RoutesAnswer, Source};
use crate::{BootMs, NodeEpoch, RouteDrain, RouteVersion};

/// Counts the clean sessions of this node that subscribe to each filter, and tells the routes
/// group of the first and the last.
///
/// Nothing of it outlives the node's epoch: the rows vanish with that.
#[derive(Clone, Debug)]
pub struct LocalRoutes {
    filters_max: usize,
    filters: BTreeMap<Filter, Local>,
    version: RouteVersion,
    drain: RouteDrain,
}

#[derive(Clone, Copy, Debug)]
struct Local {
    sessions: u32,
    version: RouteVersion,
}

/// No more filters are taken: SUBACK says 0x97. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's clean sessions have {limit} filters")]
pub struct FiltersFull {
    /// The bound.
    pub limit: usize,
}

impl LocalRoutes {
    /// The routes of an epoch that begins; at most `filters_max` different filters.
    pub fn new(epoch: NodeEpoch, filters_max: usize) -> Self {
        Self {
            filters_max,
            filters: BTreeMap::new(),
            version: RouteVersion(0),
            drain: RouteDrain::new(Source::Node(epoch)),
        }
    }

    /// A session subscribed to a filter that it had not. Returns the version of the filter's row:
    /// SUBACK waits until all see it, first subscriber or not.
    ///
    /// # Errors
    /// When there are too many filters; nothing changed.
    pub fn handle_subscribed(&mut self, filter: &Filter) -> Result<RouteVersion, FiltersFull> {
        if let Some(local) = self.filters.get_mut(filter) {
            local.sessions += 1;
            return Ok(local.version);
        }
        if self.filters.len() >= self.filters_max {
            let limit = self.filters_max;
            return Err(FiltersFull { limit });
        }
        let version = self.write(filter, true);
        let sessions = 1;
        self.filters
            .insert(filter.clone(), Local { sessions, version });
        Ok(version)
    }

    /// A session that had subscribed to a filter does so no longer.
    pub fn handle_unsubscribed(&mut self, filter: &Filter) {
        let Some(local) = self.filters.get_mut(filter) else {
            debug_assert!(false, "{filter} was subscribed to by nobody");
            return;
        };
        local.sessions -= 1;
        if local.sessions == 0 {
            self.filters.remove(filter);
            self.write(filter, false);
        }
    }

    /// The routes group applied a batch.
    pub fn handle_answer(&mut self, answer: RoutesAnswer, now: BootMs) {
        self.drain.handle_answer(answer, now);
        self.drain.handle_done(self.drain.applied());
    }

    /// It is not known that the routes group applied a batch: it is sent again.
    pub fn handle_failed(&mut self, now: BootMs) {
        self.drain.handle_failed(now);
    }

    /// The next batch for the routes group, unless one is under way.
    pub fn poll_deltas(&mut self, now: BootMs) -> Option<Deltas> {
        self.drain.poll_deltas(now)
    }

    /// When [`Self::poll_deltas`] may have more, if nothing else happens.
    pub fn deadline(&self) -> Option<BootMs> {
        self.drain.deadline()
    }

    fn write(&mut self, filter: &Filter, wanted: bool) -> RouteVersion {
        self.version.0 += 1;
        self.drain.handle_row(RouteDelta {
            filter: filter.clone(),
            wanted,
            version: self.version,
        });
        self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Routes, RoutesCommand};

    const T0: BootMs = BootMs(0);
    const EPOCH: NodeEpoch = NodeEpoch(3);

    fn filter(text: &str) -> Filter {
        text.try_into().unwrap()
    }

    fn settled(local: &mut LocalRoutes, routes: &mut Routes) -> usize {
        let mut batches = 0;
        while let Some(deltas) = local.poll_deltas(T0) {
            batches += 1;
            let index = routes.index() + 1;
            let answer = routes.apply(index, &RoutesCommand::Deltas(deltas));
            local.handle_answer(answer, T0);
        }
        batches
    }

    #[test]
    fn only_the_first_and_the_last_session_of_a_filter_cost_a_row() {
        let mut local = LocalRoutes::new(EPOCH, 10);
        let mut routes = Routes::new(10);

        let first = local.handle_subscribed(&filter("a"));
        assert_eq!(settled(&mut local, &mut routes), 1);
        assert_eq!(local.handle_subscribed(&filter("a")), first);
        local.handle_unsubscribed(&filter("a"));
        assert_eq!(settled(&mut local, &mut routes), 0);
        assert_eq!(routes.len(), 1);

        local.handle_unsubscribed(&filter("a"));
        assert_eq!(settled(&mut local, &mut routes), 1);
        assert!(routes.is_empty());
    }

    #[test]
    fn a_filter_that_comes_back_has_a_new_version() {
        let mut local = LocalRoutes::new(EPOCH, 10);
        let mut routes = Routes::new(10);
        let first = local.handle_subscribed(&filter("a")).unwrap();
        local.handle_unsubscribed(&filter("a"));

        let again = local.handle_subscribed(&filter("a")).unwrap();

        assert!(again > first);
        settled(&mut local, &mut routes);
        assert_eq!(routes.applied(Source::Node(EPOCH)), again);
        assert_eq!(routes.len(), 1);
    }

    #[test]
    fn filters_beyond_the_bound_are_refused_and_known_ones_are_not() {
        let mut local = LocalRoutes::new(EPOCH, 1);
        local.handle_subscribed(&filter("a")).unwrap();

        assert_eq!(
            local.handle_subscribed(&filter("b")),
            Err(FiltersFull { limit: 1 })
        );
        assert!(local.handle_subscribed(&filter("a")).is_ok());
    }
}
