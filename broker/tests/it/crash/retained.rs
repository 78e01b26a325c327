//! What is retained, as a client sees it that comes anew.

use std::collections::BTreeMap;

use mqtt::{Packet, QoS};

use super::KEEPER;
use super::world::World;
use crate::harness::{Dial, ack, options, subscribe};

/// Looks at each node that comes, once.
pub(super) async fn run(mut world: World) {
    while world.address.changed().await.is_ok() {
        // The connection may end before all is seen; then there is the next node.
        let _ = look(&world).await;
    }
}

/// Reads every topic of the keeper; none if the connection ended before. Each is at least as new as
/// what was acknowledged before it was asked for.
pub(super) async fn look(world: &World) -> Option<()> {
    let topics = KEEPER.topics.len() as u64;
    let mut due: BTreeMap<u64, u64> = BTreeMap::new();
    world.ledger.with(|kept| {
        for number in kept.acknowledged.get(KEEPER.name).into_iter().flatten() {
            due.insert(number % topics, *number);
        }
    });
    let (mut client, _) = world.try_connect(Dial::v5("looker")).await?;
    let filters = [("keep/#", options(QoS::AtLeastOnce))];
    let packet = subscribe(client.take_id(), &filters);
    if !client.try_send(&packet).await {
        return None;
    }
    while !due.is_empty() {
        let Packet::Publish(publish) = client.try_next().await? else {
            continue;
        };
        if let Some(id) = publish.packet_id
            && !client.try_send(&Packet::PubAck(ack(id))).await
        {
            return None;
        }
        if !publish.retain {
            continue;
        }
        let text = std::str::from_utf8(&publish.payload).expect("a text");
        let (_, number) = text.split_once(' ').expect("a publisher and a number");
        let number: u64 = number.parse().expect("a number");
        if let Some(acknowledged) = due.remove(&(number % topics))
            && number < acknowledged
        {
            let topic = &publish.topic;
            let what = format!("{topic} retains {number} although {acknowledged} is acknowledged");
            world.ledger.broken(what);
        }
    }
    Some(())
}
