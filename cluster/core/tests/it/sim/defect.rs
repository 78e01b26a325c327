//! Defects that the invariants have to find.

/// A bug built into a run on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    None,
    /// PUBREL leaves before `Rec` is committed.
    PubrelBeforeRec,
    /// PUBCOMP leaves before `Q2Out` is committed.
    PubcompBeforeQ2Out,
    /// A machine takes an item although one before it is missing.
    NoGapRefusal,
    /// A machine takes an item of an earlier sending after one of a later.
    AttemptsMixed,
    /// A repeated item is applied again instead of answered from memory.
    RepeatRecomputed,
    /// An `Open` expects the epoch that is there when its CONNECT is read.
    LateConnectTaken,
    /// An `Open` is applied whatever epoch it expects.
    OpenWithoutExpectedEpoch,
    /// Route rows carry the log index of their entry, not a number each.
    RouteVersionIsLogIndex,
    /// A session that was deleted begins again with the incarnation it once had.
    EpochsRestart,
    /// A leader does not take up the outbox that its predecessor left.
    OutboxNotResumed,
    /// `Expire` ends a session whoever owns it now.
    ExpireWithoutEpoch,
    /// A message goes only where rows say, whosever its topic is.
    OwnerNotComputed,
    /// A retained message stays in the shard of its topic, whosever that is.
    OwnedRetainedElsewhere,
    /// `Retain` carries no stamp.
    RetainUnstamped,
    /// Entries are applied, and answered, before they are synced.
    AppliedBeforeSync,
    /// SUBACK leaves before the routes are seen.
    SubackBeforeRoutes,
    /// SUBACK leaves before the other nodes see the routes.
    SubackBeforeOthers,
    /// A node that leads a shard publishes its wills before it knows the routes.
    WillBeforeRoutes,
    /// SUBACK leaves although the node does not hold its lease.
    SubackWithoutLease,
    /// PUBACK and PUBREC leave although the node does not hold its lease.
    AckWithoutLease,
    /// A shard's new leader hands out only what comes from now on.
    NothingHandedAgain,
    /// A connection sends what another leader hands it again.
    LiveResends,
    /// A leader takes an epoch that its replica of meta does not show yet for one that has ended.
    NewEpochGone,
    /// A leader commits what it alone has.
    MinorityCommits,
    /// SUBACK leaves before the group has the member.
    SubackBeforeMembership,
    /// A message that was handed to a member is taken for acknowledged.
    SharedAckedAtOnce,
    /// What an ended connection asked for is sent again as itself, not as nothing.
    EndedSentAgain,
    /// Items of a node epoch that ended are still taken.
    EndedEpochServed,
    /// Wall time is written into entries whatever it does.
    ClockBelieved,
    /// Log time leaps to the wall clock with any entry that finds it believed.
    ClockCatchesUp,
}
