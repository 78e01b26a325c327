//! What a test breaks on purpose.

use crate::ids::Owed;

/// Faults that only a [`crate::Environment`] can put into a node, for tests of what holds in
/// spite of them.
#[derive(Clone, Debug, Default)]
pub struct Defects {
    /// A PUBLISH to this topic makes the actor of its connection panic.
    pub panic_on_topic: Option<String>,
    /// A PUBLISH is acknowledged before what it put into the shards' logs is committed.
    pub acknowledge_before_commit: bool,
}

impl Defects {
    /// Who is told that a command to a shard is committed.
    pub(crate) fn owed(&self, owed: Option<Owed>) -> Option<Owed> {
        owed.filter(|_| !self.acknowledge_before_commit)
    }

    /// Comes before each fan-out.
    pub(crate) fn before_publish(&self, topic: &str) {
        if let Some(panic_on_topic) = &self.panic_on_topic {
            assert!(
                topic != panic_on_topic,
                "a PUBLISH to {topic} panics on purpose"
            );
        }
    }
}
