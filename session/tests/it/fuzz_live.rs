//! One connection under any bytes and any order of events; shared with `fuzz/`.
//!
//! The input is a programme: each step takes an opcode and what it needs. What the client does
//! goes through the real decoder; the shell's part is played within its contract, but in any
//! order and as late as it likes. [`Ledger`] checks every effect.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use mqtt::{ClientId, Decoder, Packet, QoS, ReasonCode, Text, Version};
use tidewire_session::{
    Admitted, Answer, Command, Config, ConnectionId, Credentials, Delivery, DeliveryStep, Effect,
    Epoch, GroupDelivery, GroupSeq, Identity, Live, Match, Message, MonoMs, NodeEpoch, Now, Opened,
    Seq, Subscribed, Token, Unsubscribed, WallMs,
};

use crate::fuzz_ledger::Ledger;
use crate::fuzz_packets::{Source, client_packet, message, subscription};

/// Most effects that one event may have: what the early packets and all queues can cause.
const EFFECTS_MAX: usize = 256;

/// Packets that the shell keeps behind a full window before it stops reading.
const STASH_MAX: usize = 16;

/// Runs the programme, then ends the connection.
///
/// # Panics
/// When the connection breaks a rule of [`Ledger`], gives effects after its end, more than
/// [`EFFECTS_MAX`] for one event, or holds more than its limits; when a deadline does not move on
/// after it was served, or serving it early does something; when it does not end at last.
pub(crate) fn live(bytes: &[u8]) {
    let mut shell = Shell::new(Source(bytes));
    while let Some(step) = shell.source.next() {
        shell.step(step);
    }
    shell.end();
}

/// What the connection asked for and has no answer to.
enum Asked {
    Authenticate(Box<Credentials>),
    Open,
    Settle(Token),
    Answer(Token, Box<Command>),
    Retained(Token, usize),
}

struct Shell<'a> {
    source: Source<'a>,
    config: Arc<Config>,
    live: Live,
    ledger: Ledger,
    now: Now,
    decoder: Decoder,
    received: BytesMut,
    stash: Vec<Packet>,
    /// The client's bytes were refused, or its socket ended.
    is_deaf: bool,
    /// Reads on while CONNECT is being answered.
    is_eager: bool,
    asked: Vec<Asked>,
    is_opening: bool,
    next_seq: u64,
    first_seq: u64,
    next_shared: u64,
    /// Of these, those handed over under its own epoch.
    shared_ours: BTreeSet<u64>,
}

const EPOCH: Epoch = Epoch(9);
const OTHER_EPOCH: Epoch = Epoch(8);

impl<'a> Shell<'a> {
    fn new(mut source: Source<'a>) -> Self {
        let options = source.byte();
        let config = Arc::new(Config {
            receive_maximum: 3,
            topic_alias_maximum: 2,
            keep_alive_s_max: (options & 1 == 1).then_some(20),
            subscriptions: 3,
            queue_messages: 4,
            queue_bytes: 4_096,
            retained_rows: 2,
            requests: 3,
            ..Config::default()
        });
        let now = Now {
            mono: MonoMs(1_000),
            wall: WallMs(1_700_000_000_000),
        };
        // Around the places where packet ids begin anew.
        let first_seq = [8, 32_764, 65_530, 1 << 40][usize::from(options >> 2 & 3)];
        Self {
            source,
            live: Live::new(&config, NodeEpoch(1), ConnectionId(1), now),
            ledger: Ledger::new(&config),
            config,
            now,
            decoder: Decoder::new(mqtt::Limits::default()),
            received: BytesMut::new(),
            stash: Vec::new(),
            is_deaf: false,
            is_eager: options & 2 == 2,
            asked: Vec::new(),
            is_opening: false,
            next_seq: first_seq,
            first_seq,
            next_shared: 0,
            shared_ours: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: u8) {
        match step % 32 {
            0..=9 => self.client_sends(step % 32),
            10 => self.client_sends_bytes(),
            11..=18 => self.answer(),
            19 => self.answer_nothing_asked(),
            20 => self.deliver(),
            21 => self.release(),
            22 | 23 => self.message(),
            24 => self.handle(|live, _| live.handle_blocked()),
            25 => self.handle(|live, now| live.handle_writable(now)),
            26 => {
                let stopped = self.source.byte() & 1 == 1;
                self.handle(|live, now| live.handle_read_stopped(stopped, now));
            }
            27 => self.pass_time(),
            28 => self.pass_time_to_deadline(),
            29 => self.handle(|live, _| live.trim()),
            30 => self.kick(),
            _ => {
                if self.source.byte() & 3 == 3 {
                    self.is_deaf = true;
                    self.handle(|live, now| live.handle_closed(now));
                }
            }
        }
        assert!(self.live.queue_bytes() <= self.config.queue_bytes);
    }

    /// Gives one event and takes all effects of it.
    fn handle(&mut self, event: impl FnOnce(&mut Live, Now)) {
        event(&mut self.live, self.now);
        let mut count = 0;
        while let Some(effect) = self.live.poll_effect() {
            count += 1;
            assert!(count <= EFFECTS_MAX, "one event has no end of effects");
            self.ledger.take(&self.live, &effect);
            self.note(effect);
        }
        assert_eq!(self.live.is_closed(), self.ledger.is_closed());
        self.unstash();
    }

    fn note(&mut self, effect: Effect) {
        let asked = match effect {
            Effect::Authenticate(credentials) => Asked::Authenticate(credentials),
            Effect::Open(_) => {
                self.is_opening = true;
                Asked::Open
            }
            Effect::Publish(inbound) => match inbound.token {
                Some(token) => Asked::Settle(token),
                None => return,
            },
            Effect::Subscribe { token, .. } | Effect::Unsubscribe { token, .. } => {
                Asked::Settle(token)
            }
            Effect::Propose { token, command } => Asked::Answer(token, command),
            Effect::Retained { token, filters, .. } => Asked::Retained(token, filters.len()),
            Effect::Send(_)
            | Effect::Ack(_)
            | Effect::Deliver(_)
            | Effect::Confirmed
            | Effect::Acked(_)
            | Effect::SharedAcked(_)
            | Effect::PersistentRule(_)
            | Effect::Close(_) => return,
        };
        self.asked.push(asked);
    }

    fn client_sends(&mut self, kind: u8) {
        let version = self.decoder.version().unwrap_or(Version::V5);
        let delivered = self.ledger.delivered_ids();
        let packet = client_packet(&mut self.source, kind, version, &delivered);
        mqtt::encode(&packet, version_of(&packet, version), &mut self.received);
        self.read();
    }

    fn client_sends_bytes(&mut self) {
        let len = usize::from(self.source.byte() & 63);
        let bytes = self.source.take(len);
        self.received.extend_from_slice(bytes);
        self.read();
    }

    fn read(&mut self) {
        while !self.is_deaf && !self.live.is_closed() && self.stash.len() < STASH_MAX {
            if self.live.is_connecting() && !self.is_eager {
                return;
            }
            match self.decoder.decode(&mut self.received) {
                Ok(Some(packet)) => self.take_packet(packet),
                Ok(None) => return,
                Err(error) => {
                    self.is_deaf = true;
                    self.handle(|live, now| live.handle_malformed(error.reason, now));
                }
            }
        }
    }

    fn take_packet(&mut self, packet: Packet) {
        let waits = matches!(&packet, Packet::Publish(publish) if publish.qos != QoS::AtMostOnce)
            && (self.live.is_paused() || !self.stash.is_empty());
        if waits {
            self.stash.push(packet);
        } else {
            self.hand_over(packet);
        }
    }

    fn unstash(&mut self) {
        if !self.live.is_paused() && !self.stash.is_empty() {
            let packet = self.stash.remove(0);
            self.hand_over(packet);
        }
    }

    fn hand_over(&mut self, packet: Packet) {
        self.ledger.client_sent(&packet);
        self.handle(|live, now| live.handle_packet(packet, now));
    }

    /// Answers one thing that was asked, any of them.
    fn answer(&mut self) {
        if self.asked.is_empty() {
            return;
        }
        let at = usize::from(self.source.byte()) % self.asked.len();
        match self.asked.remove(at) {
            Asked::Authenticate(credentials) => self.authenticate(*credentials),
            Asked::Open => self.open(),
            Asked::Settle(token) => self.settle(token),
            Asked::Answer(token, command) => self.apply(token, &command),
            Asked::Retained(token, filters) => self.retained(token, filters),
        }
        // The held-back socket is read again.
        self.read();
    }

    fn authenticate(&mut self, credentials: Credentials) {
        if self.source.byte() & 15 == 15 {
            return self
                .handle(|live, now| live.handle_refused(ReasonCode::BadUserNameOrPassword, now));
        }
        let client = credentials.client.unwrap_or_else(|| client_id("assigned"));
        let identity = Identity(Text::try_from("somebody").expect("an MQTT string"));
        let admitted = Admitted { identity, client };
        self.handle(|live, now| live.handle_admitted(admitted, now));
    }

    fn open(&mut self) {
        self.is_opening = false;
        let is_served = self.next_seq == self.first_seq;
        let opened = if self.source.byte() & 15 == 15 && is_served {
            Opened::No(ReasonCode::ServerUnavailable)
        } else {
            Opened::Yes {
                epoch: EPOCH,
                incarnation: EPOCH,
                session_present: self.source.byte() & 1 == 1,
            }
        };
        self.ledger.opened(opened);
        self.handle(|live, now| live.handle_opened(opened, now));
    }

    fn settle(&mut self, token: Token) {
        let outcomes = [
            ReasonCode::Success,
            ReasonCode::Success,
            ReasonCode::NoMatchingSubscribers,
            ReasonCode::NotAuthorized,
            ReasonCode::QuotaExceeded,
        ];
        let outcome = self.source.pick(&outcomes);
        self.ledger.settled(token, outcome);
        self.handle(|live, now| live.handle_settled(token, outcome, now));
    }

    fn apply(&mut self, token: Token, command: &Command) {
        let choice = self.source.byte();
        let answer = if choice & 31 == 31 {
            Answer::WrongEpoch { current: None }
        } else {
            answer_to(command, choice)
        };
        self.ledger.answered(command, &answer);
        self.handle(|live, now| live.handle_answer(token, answer, now));
    }

    fn retained(&mut self, token: Token, filters: usize) {
        let mut rows = Vec::new();
        for _ in 0..filters {
            let count = usize::from(self.source.byte() % 3);
            rows.push((0..count).map(|_| self.next_message()).collect());
        }
        self.handle(|live, now| live.handle_retained(token, rows, now));
    }

    /// Answers that nobody waits for are passed over.
    fn answer_nothing_asked(&mut self) {
        let token = Token(self.source.pick(&[0, u64::MAX]));
        self.handle(|live, now| live.handle_settled(token, ReasonCode::Success, now));
        self.handle(|live, now| live.handle_answer(token, Answer::Done, now));
        self.handle(|live, now| live.handle_retained(token, Vec::new(), now));
        if !self.is_opening {
            let opened = Opened::No(ReasonCode::ServerBusy);
            self.handle(|live, now| live.handle_opened(opened, now));
        }
    }

    /// The shard delivers in the order of sequences, a window's worth at most.
    fn deliver(&mut self) {
        let choice = self.source.byte();
        if choice & 0x80 == 0x80 {
            return self.deliver_shared(choice);
        }
        if self.ledger.unacknowledged() >= 8 {
            return;
        }
        let step = DeliveryStep::Publish {
            message: self.next_message(),
            qos: [QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(choice & 1)],
            retain: choice & 2 == 2,
            subscription_ids: mqtt::SubscriptionIds::new(),
            dup: choice & 4 == 4,
        };
        let seq = Seq(self.next_seq);
        if self.hand_delivery(seq, step, choice) {
            self.next_seq += 1 + u64::from(choice >> 3 & 1);
        }
    }

    /// A group delivers, past the sequences of the session.
    fn deliver_shared(&mut self, choice: u8) {
        let is_open = self.live.epoch() == EPOCH;
        let may_deliver = !self.live.is_closed() && (is_open || self.is_opening);
        if !may_deliver || self.ledger.unacknowledged_shared() >= 8 {
            return;
        }
        let is_ours = !is_open || choice & 0x70 != 0x70;
        let seq = Seq(self.next_shared);
        self.next_shared += 1;
        let epoch = if is_ours { EPOCH } else { OTHER_EPOCH };
        let delivery = self.group_delivery(seq, epoch, choice);
        if is_ours {
            self.shared_ours.insert(seq.0);
            self.ledger.delivers_shared(seq);
        }
        self.handle(|live, now| live.handle_shared(delivery, now));
    }

    /// The shard releases what an earlier connection had received; or another leader of a shard hands
    /// out what this connection has had.
    fn release(&mut self) {
        let choice = self.source.byte();
        match choice & 12 {
            4 => return self.deliver_again(choice),
            8 => return self.deliver_shared_again(choice),
            _ => {}
        }
        if self.ledger.unacknowledged() < 8 {
            let seq = Seq(self.next_seq);
            let is_ours = self.hand_delivery(seq, DeliveryStep::Release, choice);
            self.next_seq += u64::from(is_ours);
        }
    }

    fn deliver_again(&mut self, choice: u8) {
        let seq = Seq(self.next_seq.saturating_sub(1 + u64::from(choice & 3)));
        if seq.0 < self.first_seq || self.live.epoch() != EPOCH {
            return;
        }
        let step = match self.source.byte() & 1 {
            0 => DeliveryStep::Release,
            _ => DeliveryStep::Publish {
                message: self.next_message(),
                qos: QoS::AtLeastOnce,
                retain: false,
                subscription_ids: mqtt::SubscriptionIds::new(),
                dup: true,
            },
        };
        let delivery = Delivery {
            client: client_id("c"),
            epoch: EPOCH,
            node_epoch: NodeEpoch(1),
            connection: ConnectionId(1),
            seq,
            step,
        };
        self.ledger.begin_repeat();
        self.handle(|live, now| live.handle_delivery(delivery, now));
        self.ledger.end_repeat();
    }

    fn deliver_shared_again(&mut self, choice: u8) {
        let Some(seq) = self.next_shared.checked_sub(1 + u64::from(choice & 3)) else {
            return;
        };
        if !self.shared_ours.contains(&seq) || self.live.epoch() != EPOCH || self.ledger.has_left()
        {
            return;
        }
        let delivery = self.group_delivery(Seq(seq), EPOCH, choice);
        self.ledger.begin_repeat();
        self.handle(|live, now| live.handle_shared(delivery, now));
        self.ledger.end_repeat();
    }

    fn group_delivery(&mut self, seq: Seq, epoch: Epoch, choice: u8) -> GroupDelivery {
        GroupDelivery {
            node_epoch: NodeEpoch(1),
            connection: ConnectionId(1),
            epoch,
            group_seq: GroupSeq {
                filter: mqtt::Filter::try_from("$share/g/a").expect("a filter"),
                incarnation: Epoch(1),
                seq,
            },
            message: self.next_message(),
            qos: [QoS::AtMostOnce, QoS::AtLeastOnce][usize::from(choice & 3 != 0)],
            retain: false,
            subscription_ids: mqtt::SubscriptionIds::new(),
            dup: choice & 4 == 4,
        }
    }

    /// Says whether the delivery was for this ownership.
    fn hand_delivery(&mut self, seq: Seq, step: DeliveryStep, choice: u8) -> bool {
        let is_open = self.live.epoch() == EPOCH;
        if !self.live.is_persistent() || !(is_open || self.is_opening) {
            return false;
        }
        let is_ours = !is_open || choice & 0x70 != 0x70;
        let delivery = Delivery {
            client: client_id("c"),
            epoch: if is_ours { EPOCH } else { OTHER_EPOCH },
            node_epoch: NodeEpoch(1),
            connection: ConnectionId(1),
            seq,
            step,
        };
        if is_ours {
            self.ledger.delivers(&delivery);
        }
        self.handle(|live, now| live.handle_delivery(delivery, now));
        is_ours
    }

    fn message(&mut self) {
        let mut matched = Match::default();
        for _ in 0..self.source.byte() % 3 {
            matched.add(&subscription(&mut self.source), false);
        }
        let message = self.next_message();
        self.handle(|live, now| live.handle_message(message, matched, now));
    }

    fn next_message(&mut self) -> Arc<Message> {
        Arc::new(message(&mut self.source, self.now.wall))
    }

    fn pass_time(&mut self) {
        let steps = [0, 1, 999, 1_000, 4_999, 5_000, 30_000, 60_000];
        let passed_ms = self.source.pick(&steps);
        self.now.mono = self.now.mono.plus_ms(passed_ms);
        // The wall clock may stand, jump, and go back.
        let wall_ms = self.source.pick(&[passed_ms, 0, 3_600_000]);
        self.now.wall = WallMs(self.now.wall.0 + wall_ms - self.source.pick(&[0, 1_000]));
        self.serve_deadline();
    }

    fn pass_time_to_deadline(&mut self) {
        if let Some(at) = self.live.deadline() {
            self.now.mono = self.now.mono.max(at);
        }
        self.serve_deadline();
    }

    fn serve_deadline(&mut self) {
        let is_due = self.live.deadline().is_some_and(|at| at <= self.now.mono);
        let effects = self.ledger.effects();
        self.handle(|live, now| live.handle_timeout(now));
        if is_due {
            let next = self.live.deadline();
            let moved = next.is_none_or(|at| at > self.now.mono);
            assert!(moved, "{next:?} is not after {:?}", self.now.mono);
        } else {
            assert_eq!(self.ledger.effects(), effects, "served too early");
        }
    }

    fn kick(&mut self) {
        let reasons = [
            ReasonCode::SessionTakenOver,
            ReasonCode::ServerShuttingDown,
            ReasonCode::UseAnotherServer,
            ReasonCode::AdministrativeAction,
        ];
        let choice = self.source.byte();
        if choice & 12 == 12 {
            let reason = reasons[usize::from(choice & 3)];
            self.handle(|live, now| live.handle_kick(reason, now));
        }
    }

    /// The socket ends; what is open is answered; then the connection is at its end.
    fn end(mut self) {
        self.handle(|live, now| live.handle_closed(now));
        if self.is_opening {
            self.open();
        }
        assert!(self.live.is_closed(), "the connection does not end");
        assert_eq!(self.live.deadline(), None);
        self.answer_nothing_asked();
        self.message();
    }
}

/// An answer of the kind that the command has.
fn answer_to(command: &Command, choice: u8) -> Answer {
    match command {
        Command::Subs(subs) => {
            let result = |at: usize| match choice.rotate_right(at as u32) & 3 {
                0 => (ReasonCode::QuotaExceeded, false),
                1 => (ReasonCode::Success, false),
                _ => (ReasonCode::GrantedQoS1, true),
            };
            let result = |at| {
                let (reason, replay) = result(at);
                Subscribed {
                    reason,
                    version: 1,
                    replay,
                    membership: 0,
                }
            };
            Answer::Subscribed((0..subs.filters.len()).map(result).collect())
        }
        Command::Unsubs(unsubs) => {
            let result = Unsubscribed {
                reason: ReasonCode::NoSubscriptionExisted,
                version: 0,
                membership: 0,
            };
            Answer::Unsubscribed(vec![result; unsubs.filters.len()])
        }
        Command::Q2In { .. } if choice & 15 == 15 => Answer::Refused(ReasonCode::QuotaExceeded),
        Command::Q2In { .. } => Answer::Q2In { n: 1, floor: 0 },
        Command::Q2Out { .. } => Answer::Q2Out {
            found: choice & 1 == 1,
        },
        Command::Rec { .. } => Answer::Rec { found: true },
        _ => Answer::Done,
    }
}

fn client_id(text: &str) -> ClientId {
    ClientId::try_from(text).expect("a client id")
}

/// A CONNECT says itself what it is written in.
fn version_of(packet: &Packet, version: Version) -> Version {
    match packet {
        Packet::Connect(connect) => connect.version,
        _ => version,
    }
}
