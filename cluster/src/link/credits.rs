//! What requests hold of a grant: counted alike by who asks and by who is asked.

use super::frame::PAYLOAD_BYTES_MAX;
use super::lane::Grant;

/// What of a grant is taken.
#[derive(Clone, Debug)]
pub struct Credits {
    grant: Grant,
    requests: u32,
    request_bytes: u64,
    reply_bytes: u64,
}

/// What one request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Bytes of its payload.
    pub request_bytes: u32,
    /// Bytes that its reply may have.
    pub reply_bytes: u32,
}

/// What a request would exceed. Nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// It does not fit, however little else is open.
    #[error("a payload of {bytes} B exceeds {limit} B")]
    Payload {
        /// Of the request, or room for its reply.
        bytes: u32,
        /// [`Grant::payload_bytes`].
        limit: u32,
    },
    /// Too many are open.
    #[error("{limit} requests are unanswered")]
    Requests {
        /// [`Grant::requests`].
        limit: u32,
    },
    /// Too many bytes are open.
    #[error("unanswered requests hold {held} of {limit} B")]
    RequestBytes {
        /// What is taken.
        held: u64,
        /// [`Grant::request_bytes`].
        limit: u64,
    },
    /// No room for the reply.
    #[error("replies have {held} of {limit} B reserved")]
    ReplyBytes {
        /// What is taken.
        held: u64,
        /// [`Grant::reply_bytes`].
        limit: u64,
    },
}

impl Credits {
    /// Nothing is taken. No payload exceeds [`PAYLOAD_BYTES_MAX`], whatever the grant says.
    pub fn new(mut grant: Grant) -> Self {
        grant.payload_bytes = grant.payload_bytes.min(PAYLOAD_BYTES_MAX);
        Self {
            grant,
            requests: 0,
            request_bytes: 0,
            reply_bytes: 0,
        }
    }

    /// The bounds.
    pub fn grant(&self) -> Grant {
        self.grant
    }

    /// Requests that are open.
    pub fn requests(&self) -> u32 {
        self.requests
    }

    /// Takes what a request needs, all of it or nothing.
    ///
    /// # Errors
    /// Names the bound that it would exceed; nothing is taken.
    pub fn take(&mut self, share: Share) -> Result<(), Exceeded> {
        let limit = self.grant.payload_bytes;
        let bytes = share.request_bytes.max(share.reply_bytes);
        if bytes > limit {
            return Err(Exceeded::Payload { bytes, limit });
        }
        if self.requests >= self.grant.requests {
            let limit = self.grant.requests;
            return Err(Exceeded::Requests { limit });
        }
        let limit = self.grant.request_bytes;
        let request_bytes = self.request_bytes + u64::from(share.request_bytes);
        if request_bytes > limit {
            let held = self.request_bytes;
            return Err(Exceeded::RequestBytes { held, limit });
        }
        let limit = self.grant.reply_bytes;
        let reply_bytes = self.reply_bytes + u64::from(share.reply_bytes);
        if reply_bytes > limit {
            let held = self.reply_bytes;
            return Err(Exceeded::ReplyBytes { held, limit });
        }
        self.requests += 1;
        self.request_bytes = request_bytes;
        self.reply_bytes = reply_bytes;
        Ok(())
    }

    /// Gives back what [`Credits::take`] took.
    ///
    /// # Panics
    /// If less is taken: the bounds would hold no more.
    pub fn give_back(&mut self, share: Share) {
        let held = "no more is given back than was taken";
        self.requests = self.requests.checked_sub(1).expect(held);
        self.request_bytes = self
            .request_bytes
            .checked_sub(u64::from(share.request_bytes))
            .expect(held);
        self.reply_bytes = self
            .reply_bytes
            .checked_sub(u64::from(share.reply_bytes))
            .expect(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANT: Grant = Grant {
        requests: 3,
        payload_bytes: 100,
        request_bytes: 150,
        reply_bytes: 120,
    };

    fn share(request_bytes: u32, reply_bytes: u32) -> Share {
        Share {
            request_bytes,
            reply_bytes,
        }
    }

    #[test]
    fn each_bound_refuses_by_its_own_name_and_takes_nothing() {
        let mut credits = Credits::new(GRANT);
        assert!(matches!(
            credits.take(share(101, 0)),
            Err(Exceeded::Payload { bytes: 101, .. })
        ));
        assert!(matches!(
            credits.take(share(0, 101)),
            Err(Exceeded::Payload { bytes: 101, .. })
        ));
        credits.take(share(100, 100)).expect("room");
        assert!(matches!(
            credits.take(share(51, 0)),
            Err(Exceeded::RequestBytes { held: 100, .. })
        ));
        assert!(matches!(
            credits.take(share(0, 21)),
            Err(Exceeded::ReplyBytes { held: 100, .. })
        ));
        credits.take(share(50, 20)).expect("just room");
        credits.take(share(0, 0)).expect("a third");
        assert_eq!(
            credits.take(share(0, 0)),
            Err(Exceeded::Requests { limit: 3 })
        );
    }

    #[test]
    fn no_grant_allows_a_payload_that_no_frame_holds() {
        let generous = Grant {
            payload_bytes: u32::MAX,
            ..GRANT
        };
        let mut credits = Credits::new(generous);
        let limit = PAYLOAD_BYTES_MAX;
        let bytes = limit + 1;
        assert_eq!(
            credits.take(share(bytes, 0)),
            Err(Exceeded::Payload { bytes, limit })
        );
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let mut credits = Credits::new(GRANT);
        for _ in 0..10 {
            credits.take(share(100, 100)).expect("room");
            credits.give_back(share(100, 100));
        }
        assert_eq!(credits.requests(), 0);
    }

    #[test]
    #[should_panic(expected = "no more is given back")]
    fn giving_back_more_than_was_taken_is_a_broken_invariant() {
        Credits::new(GRANT).give_back(share(0, 0));
    }
}
