//! What a test breaks on purpose.

/// Faults that only [`crate::Node::start_with`] can put into a node, for tests of what holds in
/// spite of them.
#[derive(Clone, Debug, Default)]
pub struct Defects {
    /// A PUBLISH to this topic makes the actor of its connection panic.
    pub panic_on_topic: Option<String>,
}

impl Defects {
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
