//! The subscriber of a pair: takes what comes, and goes away now and then.

use mqttbytes::QoS;
use mqttbytes::v4::{Packet, PubAck, Publish, Subscribe, SubscribeReasonCode};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::client::Client;
use super::{Shared, topic};
use crate::fleet::wire::{Lost, Wire};

/// Messages of a pair, at most: 50 ms apart for two weeks.
const SEQUENCES_MAX: u64 = 1 << 24;

/// Says what a subscriber got.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) receipts: Receipts,
    pub(super) sessions_missing: u64,
    pub(super) reconnects: u64,
}

/// Which messages came, and how.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    seen: Vec<bool>,
    distinct: u64,
    repeated: u64,
    out_of_order: u64,
}

impl Receipts {
    fn handle(&mut self, sequence: u64) {
        // Checked where it was decoded.
        let at = sequence as usize;
        if self.seen.get(at) == Some(&true) {
            self.repeated += 1;
            return;
        }
        self.distinct += 1;
        if at < self.seen.len() {
            self.out_of_order += 1;
        } else {
            self.seen.resize(at + 1, false);
        }
        self.seen[at] = true;
    }

    /// Of the first `count` messages, those that did not come.
    pub(super) fn missing(&self, count: u64) -> u64 {
        let came = self.seen.iter().take(count as usize);
        count - came.filter(|came| **came).count() as u64
    }

    pub(super) fn distinct(&self) -> u64 {
        self.distinct
    }

    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }

    pub(super) fn out_of_order(&self) -> u64 {
        self.out_of_order
    }
}

/// Subscribes, says so, and takes what comes until everything acknowledged is there.
pub(super) async fn run(
    pair: u32,
    shared: &Shared,
    tell_subscribed: oneshot::Sender<()>,
    acked: watch::Receiver<Option<u64>>,
) -> Taken {
    let mut client = Client::new(shared, format!("pair-{pair}-subscriber"), pair);
    let mut receipts = Receipts::default();
    let mut tell_subscribed = Some(tell_subscribed);
    tokio::select! {
        () = take_all(pair, shared, &mut tell_subscribed, acked, &mut client, &mut receipts) => {}
        () = shared.over() => {}
    }
    Taken {
        receipts,
        sessions_missing: client.sessions_missing,
        reconnects: client.reconnects(),
    }
}

/// Why a connection ended that was not lost.
enum Left {
    /// Everything acknowledged has come.
    Done,
    /// It is time to be away.
    Away,
}

async fn take_all(
    pair: u32,
    shared: &Shared,
    tell_subscribed: &mut Option<oneshot::Sender<()>>,
    mut acked: watch::Receiver<Option<u64>>,
    client: &mut Client<'_>,
    receipts: &mut Receipts,
) {
    let mut is_subscribed = false;
    loop {
        let mut wire = client.connect().await;
        if !wire.is_resumed {
            // Counted; what is published from now on is to be heard all the same.
            is_subscribed = false;
        }
        let ended = async {
            if !is_subscribed {
                subscribe(&mut wire, pair, receipts).await?;
                is_subscribed = true;
                // The publisher may have been ended meanwhile.
                let _ = tell_subscribed.take().map(|tell| tell.send(()));
            }
            let leaves = pair.is_multiple_of(2);
            let leave_at = leaves.then(|| Instant::now() + shared.config.stay);
            let left = take(&mut wire, leave_at, &mut acked, receipts).await?;
            wire.disconnect(&client.id).await?;
            Ok::<Left, Lost>(left)
        };
        match ended.await {
            Ok(Left::Done) => return,
            Ok(Left::Away) => {
                client.turn();
                sleep(shared.config.away).await;
            }
            Err(lost) => client.handle_lost(&lost).await,
        }
    }
}

async fn subscribe(wire: &mut Wire, pair: u32, receipts: &mut Receipts) -> Result<(), Lost> {
    let mut subscribe = Subscribe::new(topic(pair), QoS::AtLeastOnce);
    subscribe.pkid = 1;
    subscribe.write(&mut wire.out).map_err(Lost::Malformed)?;
    wire.flush().await?;
    loop {
        match wire.read_packet().await? {
            Packet::SubAck(suback) => {
                let granted = [SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                return match suback.return_codes[..] == granted {
                    true => Ok(()),
                    false => Err(Lost::Unexpected("SUBACK without QoS 1")),
                };
            }
            packet => handle_packet(wire, packet, receipts).await?,
        }
    }
}

/// Takes what comes until it is time to go, or everything is there.
async fn take(
    wire: &mut Wire,
    leave_at: Option<Instant>,
    acked: &mut watch::Receiver<Option<u64>>,
    receipts: &mut Receipts,
) -> Result<Left, Lost> {
    loop {
        let end = *acked.borrow_and_update();
        if end.is_some_and(|acked| receipts.missing(acked) == 0) {
            return Ok(Left::Done);
        }
        tokio::select! {
            packet = wire.read_packet() => handle_packet(wire, packet?, receipts).await?,
            () = at(leave_at), if end.is_none() => return Ok(Left::Away),
            changed = acked.changed(), if end.is_none() => {
                changed.map_err(|_| Lost::Closed)?;
            }
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn handle_packet(
    wire: &mut Wire,
    packet: Packet,
    receipts: &mut Receipts,
) -> Result<(), Lost> {
    let Packet::Publish(publish) = packet else {
        return Err(Lost::Unexpected("only PUBLISH was due"));
    };
    receipts.handle(sequence(&publish)?);
    PubAck::new(publish.pkid)
        .write(&mut wire.out)
        .map_err(Lost::Malformed)?;
    wire.flush().await
}

fn sequence(publish: &Publish) -> Result<u64, Lost> {
    let text = std::str::from_utf8(&publish.payload).unwrap_or_default();
    match text.parse() {
        Ok(sequence) if sequence < SEQUENCES_MAX => Ok(sequence),
        _ => Err(Lost::Unexpected("a message of somebody else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(sequences: &[u64]) -> Receipts {
        let mut receipts = Receipts::default();
        for sequence in sequences {
            receipts.handle(*sequence);
        }
        receipts
    }

    #[test]
    fn a_message_that_did_not_come_is_missing_if_it_was_acknowledged() {
        let receipts = receipts(&[0, 1, 3]);
        assert_eq!(receipts.missing(2), 0);
        assert_eq!(receipts.missing(4), 1);
        assert_eq!(receipts.missing(6), 3);
        assert_eq!(receipts.distinct(), 3);
    }

    #[test]
    fn a_message_may_come_again_but_not_for_the_first_time_behind_a_later_one() {
        let again = receipts(&[0, 1, 2, 1, 2, 3]);
        assert_eq!((again.repeated(), again.out_of_order()), (2, 0));
        let late = receipts(&[0, 2, 1]);
        assert_eq!((late.repeated(), late.out_of_order()), (0, 1));
        assert_eq!(late.missing(3), 0);
    }
}
