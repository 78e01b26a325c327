//! A session that subscribes to more and more filters, and publishes to all it was told that it has.

use mqtt::{Packet, PacketId, QoS};

use super::subscriber::Inbox;
use super::world::{Stage, World};
use crate::harness::{Client, Dial, options, publish, subscribe};

pub(super) const GROWER: &str = "grower";
/// Filters at which it grows no more: below what a session may have.
const FILTERS_MAX: u64 = 200;

/// What it waits for.
#[derive(Clone, Copy)]
enum Asked {
    Nothing,
    /// The SUBACK of the next filter.
    Filter,
    /// The PUBACK of a message.
    Message {
        number: u64,
        filter: u64,
    },
}

struct Grower {
    world: World,
    inbox: Inbox,
    asked: Asked,
    filters: u64,
    published: u64,
    steps: u64,
    has_sentinel: bool,
}

/// Grows over all nodes of the run.
pub(super) async fn run(world: World) {
    let mut grower = Grower {
        world,
        inbox: Inbox::new(GROWER),
        asked: Asked::Nothing,
        filters: 0,
        published: 0,
        steps: 0,
        has_sentinel: false,
    };
    let mut is_known = false;
    loop {
        let dial = || Dial::v5(GROWER).persistent();
        let (client, present) = grower.world.connect(dial).await;
        if is_known && !present {
            let ledger = &grower.world.ledger;
            ledger.broken("the session of the grower is gone".to_owned());
        }
        is_known = true;
        grower.go_on(client).await;
    }
}

impl Grower {
    /// Asks and takes until the connection ends.
    async fn go_on(&mut self, mut client: Client) {
        // What it asked for over another connection, it asks for again.
        if !self.ask(&mut client, true).await {
            return;
        }
        loop {
            if matches!(self.asked, Asked::Nothing) {
                self.choose();
                if !self.ask(&mut client, false).await {
                    return;
                }
            }
            let mut stage = self.world.stage.clone();
            let packet = tokio::select! {
                packet = client.try_next() => packet,
                _ = stage.changed() => {
                    self.world.stage = stage;
                    continue;
                }
            };
            match packet {
                None => return,
                Some(Packet::SubAck(ack)) => {
                    assert!(!ack.reasons[0].is_error(), "{:?}", ack.reasons);
                    self.filters += 1;
                    self.asked = Asked::Nothing;
                }
                Some(Packet::PubAck(_)) => self.acknowledged(),
                Some(packet) => {
                    if !self.inbox.take(&mut client, packet, &self.world).await {
                        return;
                    }
                }
            }
        }
    }

    fn choose(&mut self) {
        self.steps += 1;
        let is_message = match self.world.stage() {
            Stage::Crashes => {
                let grows = self.steps.is_multiple_of(3) && self.filters < FILTERS_MAX;
                self.filters > 0 && !grows
            }
            Stage::Sentinels if !self.has_sentinel => {
                self.has_sentinel = true;
                true
            }
            stage => {
                self.world
                    .ledger
                    .with(|kept| kept.rested.insert(GROWER, stage));
                return;
            }
        };
        if !is_message {
            self.asked = Asked::Filter;
            return;
        }
        self.published += 1;
        // Old ones as well as the newest.
        let filter = match self.steps.is_multiple_of(2) {
            true => self.filters,
            false => 1 + self.steps * 7 % self.filters,
        };
        let number = self.published;
        self.asked = Asked::Message { number, filter };
    }

    async fn ask(&self, client: &mut Client, dup: bool) -> bool {
        let packet_id = PacketId::new(1);
        let packet = match self.asked {
            Asked::Nothing => return true,
            Asked::Filter => {
                let filter = format!("grow/{}", self.filters + 1);
                let filters = [(&*filter, options(QoS::AtLeastOnce))];
                subscribe(packet_id.expect("not 0"), &filters)
            }
            Asked::Message { number, filter } => {
                let (topic, text) = (format!("grow/{filter}"), format!("{GROWER} {number}"));
                let mut publish = publish(&topic, QoS::AtLeastOnce, &text);
                publish.packet_id = packet_id;
                publish.dup = dup;
                Packet::Publish(publish)
            }
        };
        client.try_send(&packet).await
    }

    fn acknowledged(&mut self) {
        if let Asked::Message { number, .. } = self.asked {
            self.world.ledger.with(|kept| {
                let all = kept.acknowledged.entry(GROWER).or_default();
                all.insert(number);
            });
        }
        self.asked = Asked::Nothing;
    }
}
