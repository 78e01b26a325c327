//! What happens to the nodes and the network, drawn from the seed.

use runtime::Random;

/// What is done to a run. Nodes are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies, the machine lives: what was written stays, synced or not.
    Kill(u32),
    /// Power is lost: of what was not synced some is there, some not, some torn.
    PowerLoss(u32),
    /// Everywhere at once.
    PowerLossOfAll,
    /// A node that is down starts again.
    Start(u32),
    /// A node that is down starts again, and has lost its replica of this shard.
    StartDamaged(u32, u16),
    StartAll,
    /// Nothing gets from one node to another.
    Cut {
        from: u32,
        to: u32,
    },
    /// Nothing gets to a node or from it.
    Isolate(u32),
    /// The ways between two nodes are slow, in milliseconds.
    Slow {
        one: u32,
        other: u32,
        ms: u64,
    },
    /// Everything gets through.
    Heal,
}

/// A fault, and for how long nothing else happens then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) fault: Fault,
    pub(crate) then_ms: u64,
}

/// Steps of a run without what is added for damage and quick starts.
const STEPS: u64 = 12;

/// Draws the steps of a seed.
pub(crate) fn draw(random: &mut Random, shards: u16) -> Vec<Step> {
    let mut steps = Vec::new();
    let damaged_at = random.below(3 * STEPS);
    for nth in 0..STEPS {
        if nth == damaged_at {
            steps.extend(damage(random, shards));
            continue;
        }
        let node = 1 + random.below(3) as u32;
        let other = 1 + (node + random.below(2) as u32) % 3;
        let fault = match random.below(12) {
            0 => Fault::Kill(node),
            1 => Fault::PowerLoss(node),
            2 => {
                steps.extend(blink(random, node));
                continue;
            }
            3 if random.below(3) == 0 => Fault::PowerLossOfAll,
            3 | 4 => Fault::Isolate(node),
            5 => Fault::Cut {
                from: node,
                to: other,
            },
            6 => Fault::Slow {
                one: node,
                other,
                ms: 20 + random.below(300),
            },
            7 | 8 => Fault::Start(node),
            9 => Fault::StartAll,
            _ => Fault::Heal,
        };
        let longest_ms = if random.below(3) == 0 { 4_000 } else { 900 };
        let then_ms = 100 + random.below(longest_ms);
        steps.push(Step { fault, then_ms });
    }
    steps
}

/// A node loses power and is back before anybody stands for election.
fn blink(random: &mut Random, node: u32) -> [Step; 2] {
    [
        Step {
            fault: Fault::PowerLoss(node),
            then_ms: 20 + random.below(400),
        },
        Step {
            fault: Fault::Start(node),
            then_ms: 300 + random.below(1_500),
        },
    ]
}

/// A replica is lost while another is behind, and then the one that has everything is away.
fn damage(random: &mut Random, shards: u16) -> Vec<Step> {
    let behind = 1 + random.below(3) as u32;
    let damaged = 1 + (behind + random.below(2) as u32) % 3;
    let whole = 6 - behind - damaged;
    let shard = random.below(shards.into()) as u16;
    let step = |fault, then_ms| Step { fault, then_ms };
    vec![
        step(Fault::StartAll, 0),
        step(Fault::Heal, 4_000 + random.below(2_000)),
        step(Fault::Isolate(behind), 1_000 + random.below(3_000)),
        step(Fault::PowerLoss(damaged), 50 + random.below(300)),
        step(Fault::Heal, 0),
        step(Fault::Isolate(whole), 0),
        step(
            Fault::StartDamaged(damaged, shard),
            5_000 + random.below(3_000),
        ),
    ]
}
