use mqtt::QoS;

use super::durable_test::{Shard, client, filter, message};
use super::{Delivery, DeliveryStep, Durable, DurableEffect, GroupDelivery, Limits, MembershipRow};
use crate::{
    Acks, Answer, Command, Enqueue, Epoch, GroupSeq, Seq, Subs, Subscription, Unsubs, WallMs,
};

const SHARED: &str = "$share/g/t";

/// The log of a shard, and a replica that leads.
struct Log {
    leader: Shard,
    entries: Vec<Command>,
}

impl Log {
    fn new() -> Self {
        Self {
            leader: Shard::new(Limits::default()),
            entries: Vec::new(),
        }
    }

    fn apply(&mut self, command: Command) -> Answer {
        let answer = self.leader.apply(&command);
        self.entries.push(command);
        answer
    }

    fn open(&mut self, name: &str, connection: u64) -> Epoch {
        let expected = self.leader.durable.epoch(&client(name));
        let open = super::durable_test::open(name, connection, expected);
        match self.apply(Command::Open(Box::new(open))) {
            Answer::Opened { epoch, .. } => epoch,
            other => panic!("not opened: {other:?}"),
        }
    }

    fn subscribe(&mut self, name: &str, epoch: Epoch, text: &str) {
        let options = mqtt::SubscribeOptions {
            qos: QoS::ExactlyOnce,
            retain_handling: mqtt::RetainHandling::DoNotSend,
            ..mqtt::SubscribeOptions::default()
        };
        self.apply(Command::Subs(Box::new(Subs {
            client: client(name),
            epoch,
            filters: vec![(filter(text), Subscription { options, id: None })],
        })));
    }

    fn unsubscribe(&mut self, name: &str, epoch: Epoch, text: &str) {
        self.apply(Command::Unsubs(Box::new(Unsubs {
            client: client(name),
            epoch,
            filters: vec![filter(text)],
        })));
    }

    fn enqueue(&mut self, count: usize) {
        for _ in 0..count {
            self.apply(Command::Enqueue(Enqueue {
                message: message("t", QoS::ExactlyOnce),
                origin: None,
            }));
        }
    }

    /// A replica that follows, and has applied it all.
    fn follower(&self) -> Durable {
        let mut follower = Durable::new(Limits::default());
        for (index, command) in (1..).zip(&self.entries) {
            follower.apply(index, WallMs(1_000_000), command);
        }
        follower
    }
}

fn effects(durable: &mut Durable) -> Vec<DurableEffect> {
    std::iter::from_fn(|| durable.poll_effect()).collect()
}

fn deliveries(effects: &[DurableEffect]) -> Vec<&Delivery> {
    let mut deliveries = Vec::new();
    for effect in effects {
        if let DurableEffect::Deliver(delivery) = effect {
            deliveries.push(delivery);
        }
    }
    deliveries
}

fn rows(effects: Vec<DurableEffect>) -> Vec<MembershipRow> {
    let row = |effect| match effect {
        DurableEffect::Membership(row) => Some(row),
        _ => None,
    };
    effects.into_iter().filter_map(row).collect()
}

/// A persistent subscriber with three messages, of which the first is acknowledged and the second
/// received; a will that is due; a session that was taken over.
fn busy() -> (Log, Epoch) {
    let mut log = Log::new();
    let epoch = log.open("a", 1);
    log.subscribe("a", epoch, "t");
    log.enqueue(3);
    log.apply(Command::Ack(vec![Acks {
        client: client("a"),
        epoch,
        seqs: vec![Seq(0)],
    }]));
    log.apply(Command::Rec {
        client: client("a"),
        epoch,
        seq: Seq(1),
    });
    log.open("b", 2);
    log.open("b", 3);
    (log, epoch)
}

#[test]
fn who_does_not_lead_hands_nothing_out_and_keeps_nothing() {
    let (log, _) = busy();

    let mut follower = log.follower();

    assert_eq!(effects(&mut follower), []);
    assert!(follower.ready.is_empty());
    assert!(follower.groups.ready.is_empty());
    follower.handle_lead();
    follower.handle_follow();
    assert!(follower.ready.is_empty() && !follower.leads());
    assert_eq!(effects(&mut follower), []);
}

#[test]
fn a_new_leader_hands_everything_out() {
    let (mut log, epoch) = busy();
    let told = effects(&mut log.leader.durable);
    assert!(
        told.iter()
            .any(|e| matches!(e, DurableEffect::TakenOver { .. }))
    );

    let mut next = log.follower();
    next.handle_lead();

    let again = effects(&mut next);
    let steps = deliveries(&again);
    let seqs: Vec<u64> = steps.iter().map(|delivery| delivery.seq.0).collect();
    assert_eq!(seqs, [1, 2], "0 is acknowledged");
    assert_eq!(steps[0].step, DeliveryStep::Release);
    let DeliveryStep::Publish { dup, .. } = steps[1].step else {
        panic!("{:?}", steps[1]);
    };
    assert!(!dup, "no other connection may have sent it");
    assert!(steps.iter().all(|delivery| delivery.epoch == epoch));
    assert!(
        again
            .iter()
            .any(|e| matches!(e, DurableEffect::Route(row) if row.version == 1))
    );
    assert!(
        again
            .iter()
            .any(|e| matches!(e, DurableEffect::TakenOver { .. })),
        "the leader before may not have told"
    );
    assert_eq!(effects(&mut next), []);
}

#[test]
fn who_gets_the_lead_back_begins_again() {
    let (mut log, _) = busy();
    effects(&mut log.leader.durable);

    log.leader.durable.handle_follow();
    log.enqueue(1);
    assert_eq!(effects(&mut log.leader.durable), []);
    log.leader.durable.handle_lead();

    let again = effects(&mut log.leader.durable);
    let seqs: Vec<u64> = deliveries(&again).iter().map(|one| one.seq.0).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[test]
fn what_members_have_goes_out_again_and_what_follows_stays_in_its_bounds() {
    let mut log = Log::new();
    let epoch = log.open("a", 1);
    log.subscribe("a", epoch, SHARED);
    for row in rows(effects(&mut log.leader.durable)) {
        log.apply(Command::Membership(Box::new(row.to_command(0))));
    }
    log.enqueue(3);
    let shared = |effects: Vec<DurableEffect>| -> Vec<GroupDelivery> {
        let shared = |effect| match effect {
            DurableEffect::DeliverShared(delivery) => Some(delivery),
            _ => None,
        };
        effects.into_iter().filter_map(shared).collect()
    };
    let first = shared(effects(&mut log.leader.durable));
    assert_eq!(first.len(), 3);
    log.apply(Command::GroupAck(vec![first[0].group_seq.clone()]));

    let mut next = log.follower();
    assert_eq!(effects(&mut next), []);
    next.handle_lead();

    let again = shared(effects(&mut next));
    let seqs: Vec<&GroupSeq> = again.iter().map(|one| &one.group_seq).collect();
    assert_eq!(seqs, [&first[1].group_seq, &first[2].group_seq]);
    assert!(again.iter().all(|one| one.dup));
}

/// The home shard may not have the row that was replaced: its SUBACK waits for the one after it.
#[test]
fn a_membership_told_by_an_earlier_lead_counts_as_untold_by_the_next() {
    let mut log = Log::new();
    let epoch = log.open("a", 1);
    log.subscribe("a", epoch, SHARED);
    let first = rows(effects(&mut log.leader.durable));
    assert_eq!((first[0].version, first[0].since), (1, 1));
    log.unsubscribe("a", epoch, SHARED);

    log.leader.durable.handle_follow();
    log.leader.durable.handle_lead();

    let again = rows(effects(&mut log.leader.durable));
    assert_eq!((again[0].version, again[0].since), (2, 1));
    let mut other = log.follower();
    other.handle_lead();
    let other = rows(effects(&mut other));
    assert_eq!((other[0].version, other[0].since), (2, 1));
}
