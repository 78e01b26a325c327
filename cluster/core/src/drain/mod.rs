//! Carrying a shard's outbox out: rows leave only by a later entry.

mod rows;
mod wills;

pub use rows::RouteDrain;
use wills::{Place, Wills};

use crate::{BootMs, Deltas, RouteDelta, RouteVersion, RoutesAnswer, ShardId, Source};

/// Milliseconds after which what failed, or found no answer in the log, is tried again.
pub const DRAIN_RETRY_MS: u64 = 1_000;
/// Wills that are published at once.
pub const WILLS_IN_FLIGHT_MAX: usize = 64;

/// Names a row of a shard's will outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WillKey(pub u64);

/// Executes the outbox rows of one shard while its node leads it.
///
/// What it holds is a copy: the rows are in the shard's state, so that the next leader begins
/// with [`DrainEffect::Resume`] where this one stopped. Every step may happen twice; the targets
/// tell repeats, by versions and by the stamps of wills.
#[derive(Clone, Debug)]
pub struct Drain<W> {
    shard: ShardId,
    leads: bool,
    resume: bool,
    routes: RouteDrain,
    done: Step,
    wills: Wills<W>,
}

/// Where a step that is tried until it is seen to have happened stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Due,
    UnderWay,
    /// Due again from then on.
    At(BootMs),
}

impl Step {
    fn is_due(self, now: BootMs) -> bool {
        match self {
            Self::Due => true,
            Self::UnderWay => false,
            Self::At(at) => at <= now,
        }
    }

    fn at(self) -> Option<BootMs> {
        match self {
            Self::At(at) => Some(at),
            Self::Due | Self::UnderWay => None,
        }
    }
}

/// Work for the leader of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainEffect<W> {
    /// Hand every row of the shard's outbox in again (`Durable::handle_lead`).
    Resume,
    /// Propose to the routes group; then [`Drain::handle_routes_answer`] or
    /// [`Drain::handle_routes_failed`].
    SendRoutes(Deltas),
    /// Propose to the shard that rows up to here are applied; comes again until
    /// [`Drain::handle_routes_done`].
    RoutesDone {
        /// The version.
        version: RouteVersion,
    },
    /// Fan a will out with its stamp; then [`Drain::handle_will_published`] or
    /// [`Drain::handle_will_failed`].
    Publish {
        /// Its row.
        key: WillKey,
        /// The will.
        row: W,
    },
    /// Propose to the shard that the will is published; comes again until
    /// [`Drain::handle_will_done`].
    WillDone {
        /// Its row.
        key: WillKey,
    },
}

impl<W: Clone> Drain<W> {
    /// The drain of a shard that another node leads, or none.
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            leads: false,
            resume: false,
            routes: RouteDrain::new(Source::Shard(shard)),
            done: Step::Due,
            wills: Wills::new(),
        }
    }

    /// This node leads the shard, and has applied its log.
    pub fn handle_lead(&mut self) {
        *self = Self::new(self.shard);
        self.leads = true;
        self.resume = true;
    }

    /// Another node leads, or none: what is under way ends by itself.
    pub fn handle_follow(&mut self) {
        *self = Self::new(self.shard);
    }

    /// A route row of the outbox. Ignored while this node does not lead.
    pub fn handle_route(&mut self, row: RouteDelta) {
        if self.leads {
            self.routes.handle_row(row);
        }
    }

    /// The routes group applied a batch.
    pub fn handle_routes_answer(&mut self, answer: RoutesAnswer, now: BootMs) {
        if self.routes.handle_answer(answer, now) {
            self.done = Step::Due;
        }
    }

    /// It is not known that the routes group applied a batch: it is sent again.
    pub fn handle_routes_failed(&mut self, now: BootMs) {
        self.routes.handle_failed(now);
    }

    /// The shard applied that rows up to a version are done.
    pub fn handle_routes_done(&mut self, version: RouteVersion) {
        self.routes.handle_done(version);
    }

    /// A will of the outbox. Ignored while this node does not lead, or has it already.
    pub fn handle_will(&mut self, key: WillKey, row: W) {
        if self.leads {
            self.wills.add(key, row);
        }
    }

    /// Every obligation of a will is settled.
    pub fn handle_will_published(&mut self, key: WillKey) {
        let at_once = Place::Published(BootMs(0));
        self.wills.end_publishing(key, at_once);
    }

    /// A will could not be fanned out: it is tried again, with the same stamp, before any that was not
    /// handed out yet. A later one of the same client that is fanned out meanwhile makes targets
    /// refuse it: who fans wills out does so in order, and stops at the first that fails.
    pub fn handle_will_failed(&mut self, key: WillKey, now: BootMs) {
        let again = now.plus_ms(DRAIN_RETRY_MS);
        self.wills.end_publishing(key, Place::Unpublished(again));
    }

    /// The shard applied that a will is done.
    pub fn handle_will_done(&mut self, key: WillKey) {
        self.wills.remove(key);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self, now: BootMs) -> Option<DrainEffect<W>> {
        if std::mem::take(&mut self.resume) {
            return Some(DrainEffect::Resume);
        }
        let batch = self.routes.poll_deltas(now);
        let effect = batch.map(DrainEffect::SendRoutes);
        let effect = effect.or_else(|| self.next_done(now));
        effect.or_else(|| self.next_will(now))
    }

    /// When [`Self::poll_effect`] may have more, if nothing else happens.
    pub fn deadline(&self) -> Option<BootMs> {
        let done = self.done.at().filter(|_| !self.routes.is_empty());
        let has_room = self.wills.publishing() < WILLS_IN_FLIGHT_MAX;
        let unpublished = self.wills.unpublished_at().filter(|_| has_room);
        let all = [
            self.routes.deadline(),
            done,
            unpublished,
            self.wills.published_at(),
        ];
        all.into_iter().flatten().min()
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        !self.resume && self.routes.is_empty() && self.wills.is_empty()
    }

    fn next_done(&mut self, now: BootMs) -> Option<DrainEffect<W>> {
        if !self.routes.has_applied_rows() || !self.done.is_due(now) {
            return None;
        }
        self.done = Step::At(now.plus_ms(DRAIN_RETRY_MS));
        let version = self.routes.applied();
        Some(DrainEffect::RoutesDone { version })
    }

    fn next_will(&mut self, now: BootMs) -> Option<DrainEffect<W>> {
        let again = now.plus_ms(DRAIN_RETRY_MS);
        if let Some(key) = self.wills.take_published(now, again) {
            return Some(DrainEffect::WillDone { key });
        }
        if self.wills.publishing() >= WILLS_IN_FLIGHT_MAX {
            return None;
        }
        let (key, row) = self.wills.take_unpublished(now)?;
        Some(DrainEffect::Publish { key, row })
    }
}

#[cfg(test)]
mod tests {
    use mqtt::Filter;

    use super::*;
    use crate::{Routes, RoutesCommand};

    const T0: BootMs = BootMs(0);
    const SHARD: ShardId = ShardId(2);

    fn delta(text: &str, wanted: bool, version: u64) -> RouteDelta {
        RouteDelta {
            filter: text.try_into().unwrap(),
            wanted,
            version: RouteVersion(version),
        }
    }

    fn leading() -> Drain<&'static str> {
        let mut drain = Drain::new(SHARD);
        drain.handle_lead();
        assert_eq!(drain.poll_effect(T0), Some(DrainEffect::Resume));
        drain
    }

    fn versions(effect: Option<DrainEffect<&'static str>>) -> Vec<u64> {
        match effect {
            Some(DrainEffect::SendRoutes(deltas)) => {
                deltas.rows.iter().map(|row| row.version.0).collect()
            }
            other => panic!("no batch: {other:?}"),
        }
    }

    #[test]
    fn a_batch_begins_with_the_lowest_row_and_waits_for_the_one_before() {
        let mut drain = leading();
        drain.handle_route(delta("a", true, 1));
        assert_eq!(versions(drain.poll_effect(T0)), [1]);
        drain.handle_route(delta("b", true, 2));
        assert_eq!(drain.poll_effect(T0), None);

        drain.handle_routes_failed(T0);

        assert_eq!(drain.poll_effect(T0), None);
        let later = drain.deadline().unwrap();
        assert_eq!(versions(drain.poll_effect(later)), [1, 2]);
    }

    #[test]
    fn a_filter_that_flaps_costs_one_row() {
        let mut drain = leading();
        for version in 1..100 {
            drain.handle_route(delta("a", version % 2 == 1, version));
        }

        assert_eq!(versions(drain.poll_effect(T0)), [99]);
    }

    #[test]
    fn a_large_outbox_goes_in_batches() {
        let mut drain = leading();
        for version in 1..=1_500 {
            drain.handle_route(delta(&format!("f/{version}"), true, version));
        }

        let first = versions(drain.poll_effect(T0));
        let version = RouteVersion(1_000);
        drain.handle_routes_answer(RoutesAnswer::Done { version }, T0);
        let second = versions(drain.poll_effect(T0));

        assert_eq!((first.len(), second.len()), (1_000, 500));
        assert_eq!(second[0], 1_001);
    }

    #[test]
    fn what_the_routes_have_is_proposed_as_done_until_the_shard_has_applied_it() {
        let mut drain = leading();
        drain.handle_route(delta("a", true, 1));
        drain.poll_effect(T0);
        let version = RouteVersion(1);
        drain.handle_routes_answer(RoutesAnswer::Done { version }, T0);
        let done = Some(DrainEffect::RoutesDone { version });

        assert_eq!(drain.poll_effect(T0), done);
        assert_eq!(drain.poll_effect(T0), None);
        assert_eq!(drain.poll_effect(drain.deadline().unwrap()), done);
        drain.handle_routes_done(version);
        assert!(drain.is_empty());
        assert_eq!(drain.poll_effect(BootMs(99_999)), None);
    }

    #[test]
    fn rows_that_find_no_room_are_tried_again_later() {
        let mut drain = leading();
        drain.handle_route(delta("a", true, 1));
        drain.handle_route(delta("b", true, 2));
        drain.poll_effect(T0);
        let version = RouteVersion(1);

        drain.handle_routes_answer(RoutesAnswer::Full { version }, T0);

        assert_eq!(
            drain.poll_effect(T0),
            Some(DrainEffect::RoutesDone { version })
        );
        assert_eq!(drain.poll_effect(T0), None);
        assert_eq!(versions(drain.poll_effect(BootMs(1_000))), [2]);
    }

    #[test]
    fn a_will_is_published_then_done_each_until_it_is_seen_to_have_happened() {
        let mut drain = leading();
        let key = WillKey(7);
        drain.handle_will(key, "last words");
        drain.handle_will(key, "last words");
        let publish = Some(DrainEffect::Publish {
            key,
            row: "last words",
        });
        assert_eq!(drain.poll_effect(T0), publish);
        assert_eq!(drain.poll_effect(T0), None);

        drain.handle_will_failed(key, T0);
        assert_eq!(drain.poll_effect(BootMs(1_000)), publish);
        drain.handle_will_published(key);
        let done = Some(DrainEffect::WillDone { key });
        assert_eq!(drain.poll_effect(BootMs(1_000)), done);
        assert_eq!(drain.poll_effect(BootMs(1_500)), None);
        assert_eq!(drain.poll_effect(BootMs(2_000)), done);
        drain.handle_will_done(key);
        assert!(drain.is_empty());
    }

    /// A target that has a client's later will takes the earlier one for a repeat.
    #[test]
    fn a_will_that_is_tried_again_holds_later_ones_back() {
        let mut drain = leading();
        let (first, second) = (WillKey(7), WillKey(8));
        drain.handle_will(first, "first");
        assert!(matches!(
            drain.poll_effect(T0),
            Some(DrainEffect::Publish { key, .. }) if key == first
        ));
        drain.handle_will_failed(first, T0);
        drain.handle_will(second, "second");

        assert_eq!(drain.poll_effect(T0), None);

        let later = drain.deadline().unwrap();
        let keys: Vec<WillKey> = std::iter::from_fn(|| match drain.poll_effect(later) {
            Some(DrainEffect::Publish { key, .. }) => Some(key),
            _ => None,
        })
        .collect();
        assert_eq!(keys, [first, second]);
    }

    #[test]
    fn who_does_not_lead_carries_nothing_out() {
        let mut drain = leading();
        drain.handle_will(WillKey(7), "last words");
        drain.handle_route(delta("a", true, 1));

        drain.handle_follow();
        drain.handle_will(WillKey(8), "more");

        assert!(drain.is_empty());
        assert_eq!(drain.poll_effect(T0), None);
    }

    /// A shard's outbox in its log, the routes group, and a leader that dies after `steps` steps.
    fn routes_after_a_leader_dies(steps: usize) -> (Routes, Vec<RouteDelta>) {
        let mut outbox = vec![delta("a", true, 1), delta("b", true, 2)];
        let mut routes = Routes::new(100);
        let mut index = 0;
        for (is_first, steps) in [(true, steps), (false, 100)] {
            let mut drain = leading();
            for row in &outbox {
                drain.handle_route(row.clone());
            }
            for step in 0..steps {
                if is_first && step == 1 {
                    outbox.push(delta("c", true, 3));
                    drain.handle_route(delta("c", true, 3));
                }
                match drain.poll_effect(BootMs(10_000 * step as u64)) {
                    Some(DrainEffect::SendRoutes(deltas)) => {
                        index += 1;
                        let answer = routes.apply(index, &RoutesCommand::Deltas(deltas));
                        drain.handle_routes_answer(answer, T0);
                    }
                    Some(DrainEffect::RoutesDone { version }) => {
                        outbox.retain(|row| row.version > version);
                        drain.handle_routes_done(version);
                    }
                    _ => break,
                }
            }
        }
        (routes, outbox)
    }

    #[test]
    fn the_next_leader_goes_on_wherever_the_last_one_died() {
        for steps in 2..8 {
            let (routes, outbox) = routes_after_a_leader_dies(steps);

            let filters: Vec<&str> = routes
                .filters(Source::Shard(SHARD))
                .map(Filter::as_str)
                .collect();
            assert_eq!(filters, ["a", "b", "c"], "died after {steps} steps");
            assert_eq!(outbox, [], "died after {steps} steps");
        }
    }
}
