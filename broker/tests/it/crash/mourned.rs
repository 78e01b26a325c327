//! Clients with wills that never disconnect: they are cut, or their node ends.

use mqtt::QoS;

use super::world::{Stage, World};
use crate::harness::Dial;

/// Connects one after the other until the crashes are over. Of each second one the connection is
/// cut at once, and its will awaited; the others stay as long as their node.
pub(super) async fn run(mut world: World) {
    for number in 0_u64.. {
        let name = format!("mourned-{number}");
        let dial = || {
            let mut dial = Dial::v5(&name).will(&format!("will/{name}"), false, None);
            if let Some(will) = &mut dial.0.will {
                will.qos = QoS::ExactlyOnce;
            }
            dial
        };
        let (mut client, _) = world.connect(dial).await;
        world.ledger.with(|kept| kept.cut.insert(name.clone()));
        if number % 2 == 0 {
            drop(client);
            world.ledger.until(|kept| kept.wills.contains(&name)).await;
        } else {
            let mut stage = world.stage.clone();
            let ended = async { while client.try_next().await.is_some() {} };
            tokio::select! {
                () = ended => {}
                _ = stage.wait_for(|stage| *stage > Stage::Crashes) => {}
            }
        }
        if world.stage() > Stage::Crashes {
            return;
        }
    }
}
