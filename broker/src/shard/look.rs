//! A look at a shard's state, for an operator.

use std::fmt;

use session::{Durable, WallMs};
use tokio::sync::oneshot;

use super::host::{Hosted, ShardHost};
use super::{ShardMessage, Shards};

/// What is shown of a shard.
pub(crate) struct Seen<'a> {
    /// Its state, as far as this replica has applied it.
    pub(crate) durable: &'a Durable,
    /// The log's time now; of a replica that only follows, that of its last entry.
    pub(crate) now: WallMs,
    /// Whether this replica leads.
    pub(crate) leads: bool,
}

/// Looks once. It runs under the lock that applying takes, so it is to be short; who asks bounds
/// what it visits.
pub(crate) struct Look(Box<dyn FnOnce(&Seen<'_>) + Send>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

impl Shards {
    /// Shows the replica on this node to `look`, once all is done that the shard was told before.
    /// `None` where there is no replica, or no such shard, or the node stops.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        shard: u16,
        look: impl FnOnce(&Seen<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        if shard >= self.len() {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let look = Look(Box::new(move |seen| {
            if tell.send(look(seen)).is_err() {
                tracing::debug!("nobody waits for a look at a shard any more");
            }
        }));
        self.tell(shard, ShardMessage::Look(look));
        told.await.ok()
    }
}

impl ShardHost {
    /// Without a replica the look is dropped, which tells who waits.
    pub(super) fn look(&self, hosted: &Hosted, look: Look) {
        let lead = hosted.lead.as_ref();
        let Some(group) = lead.map(|lead| &lead.group).or(hosted.replica.as_ref()) else {
            return;
        };
        let now = lead.map(|lead| lead.now(self.boot()));
        group.with(|machine| {
            let durable = machine.durable();
            look.0(&Seen {
                durable,
                now: now.unwrap_or_else(|| durable.time()),
                leads: lead.is_some(),
            });
        });
    }
}
