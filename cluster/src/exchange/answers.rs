//! The bytes of what applying a command answers.

use mqtt::ReasonCode;
use session::{Answer, Retained, Subscribed, Unsubscribed};

use crate::Outcome;
use crate::stored::wire::{Reader, Sink, Stored, Why, choice, record};

choice!(Outcome, "outcome" {
    1 => Applied(answer),
    2 => Gap { next },
    3 => Ended,
});

choice!(Answer, "answer" {
    1 => Done,
    2 => Opened { epoch, incarnation, session_present },
    3 => WrongEpoch { current },
    4 => OtherIdentity,
    5 => Refused(reason),
    6 => Subscribed(all),
    7 => Unsubscribed(all),
    8 => Enqueued { taken, dropped, repeat },
    9 => Q2In { n, floor },
    10 => Q2Out { found },
    11 => Rec { found },
    12 => Retained(retained),
    13 => Membership { version },
});

record!(Subscribed {
    reason,
    version,
    replay,
    membership,
});
record!(Unsubscribed {
    reason,
    version,
    membership,
});
choice!(Retained, "fate of a retained message" { 1 => Stored, 2 => Older, 3 => Full });

impl Stored for ReasonCode {
    fn put(&self, out: &mut impl Sink) {
        (*self as u8).put(out);
    }

    fn get(from: &mut Reader<'_>) -> Result<Self, Why> {
        let tag = u8::get(from)?;
        Self::try_from(tag).map_err(|_| Why::Tag {
            what: "reason code",
            tag,
        })
    }
}
