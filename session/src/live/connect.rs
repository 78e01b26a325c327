//! From CONNECT to CONNACK.

use std::num::{NonZeroU16, NonZeroU32};

use mqtt::{
    ClientId, ConnAck, ConnAckProperties, Connect, Packet, PublishProperties, ReasonCode, Version,
    Will,
};

use super::effect::{ClosedBy, Credentials, Effect};
use super::reasons::for_connack;
use super::{Live, Opened, Phase};
use crate::message::detach_properties;
use crate::{Epoch, Identity, Now, Open, WillFate};

/// Packets that a client may send before its CONNACK (§3.1.4); more are refused with 0x97.
const EARLY_PACKETS: usize = 32;

impl Live {
    pub(super) fn handle_before_connack(&mut self, packet: Packet, now: Now) {
        match (self.phase, packet) {
            (Phase::Accepted, Packet::Connect(connect)) => self.connect(connect),
            //# [MQTT-3.1.0-1] ... the first packet sent ... MUST be a CONNECT packet
            (Phase::Accepted, _) => self.close_server(ReasonCode::ProtocolError),
            (_, Packet::Connect(_)) => self.close_server(ReasonCode::ProtocolError),
            (_, packet) => {
                if self.early.len() < EARLY_PACKETS {
                    self.early.push_back(packet);
                } else {
                    self.close_server(ReasonCode::QuotaExceeded);
                }
            }
        }
        self.last_heard = now.mono;
    }

    pub(super) fn admitted(&mut self, identity: &Identity, client: &ClientId) {
        let Some(connect) = self.connecting.as_deref_mut() else {
            return;
        };
        let client = client.detach();
        let expiry_s = match connect.version {
            Version::V311 if connect.clean_start => 0,
            Version::V311 => self.config.session_expiry_s_max,
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
        };
        let expiry_s = expiry_s.min(self.config.session_expiry_s_max);
        let will = connect.will.take();
        let delay_s_max = self.config.will_delay_s_max;
        let open = Open {
            client: client.clone(),
            identity: Identity(identity.0.detach()),
            expected_epoch: None,
            node_epoch: self.node_epoch,
            connection: self.connection,
            clean_start: connect.clean_start,
            persistent: !connect.clean_start || expiry_s > 0,
            expiry_s,
            receive_maximum: self.receive_maximum,
            will: will.map(|will| stored_will(will, delay_s_max)),
        };
        self.is_persistent = open.persistent;
        self.expiry_s = expiry_s;
        self.client = Some(client);
        self.phase = Phase::Opening;
        self.effects.push_back(Effect::Open(Box::new(open)));
    }

    pub(super) fn opened(&mut self, opened: Opened, now: Now) {
        let Opened::Yes {
            epoch,
            incarnation,
            session_present,
        } = opened
        else {
            let Opened::No(reason) = opened else { return };
            return self.refuse(reason);
        };
        self.epoch = epoch;
        self.incarnation = incarnation;
        if self.phase == Phase::ClosingOpen {
            // The socket ended meanwhile; what was opened is closed again.
            self.phase = Phase::Open;
            // A will is stored if the request is accepted (§3.1.2.5).
            let was_refused = self.connecting.is_none();
            let will = if was_refused || self.early.iter().any(is_normal_disconnect) {
                WillFate::Discard
            } else {
                WillFate::Keep
            };
            return self.close(ReasonCode::UnspecifiedError, ClosedBy::Network, will);
        }
        let Some(connect) = self.connecting.take() else {
            return;
        };
        self.phase = Phase::Open;
        self.last_heard = now.mono;
        let connack = self.connack(&connect, session_present);
        self.effects
            .push_back(Effect::Send(Packet::ConnAck(Box::new(connack))));
        self.begin_delivery(now);
        for packet in std::mem::take(&mut self.early) {
            self.handle_packet(packet, now);
        }
    }

    /// Answers CONNECT with a refusal and closes `[MQTT-3.2.2-7]`.
    pub(super) fn refuse(&mut self, reason: ReasonCode) {
        if self.phase == Phase::ClosingOpen {
            self.phase = Phase::Opening;
        } else {
            self.send_refusal(reason);
        }
        self.end(reason, ClosedBy::Server, None);
    }

    pub(super) fn send_refusal(&mut self, reason: ReasonCode) {
        self.connecting = None;
        let connack = ConnAck {
            reason: for_connack(reason),
            ..ConnAck::default()
        };
        self.effects
            .push_back(Effect::Send(Packet::ConnAck(Box::new(connack))));
    }

    fn connect(&mut self, mut connect: Box<Connect>) {
        self.version = connect.version;
        self.phase = Phase::Authenticating;
        if let Some(reason) = self.connect_fault(&connect) {
            return self.refuse(reason);
        }
        let properties = &connect.properties;
        if let Some(bytes) = properties.maximum_packet_size {
            self.packet_bytes_max = bytes.get();
        }
        let receive_maximum = match connect.version {
            Version::V311 => self.config.receive_maximum,
            Version::V5 => properties.receive_maximum.map_or(u16::MAX, NonZeroU16::get),
        };
        // Packet ids of one session repeat after 32 767.
        self.receive_maximum = receive_maximum.min(32_766);
        self.keep_alive_s = match (connect.version, self.config.keep_alive_s_max) {
            (Version::V5, Some(max)) if !(1..=max).contains(&connect.keep_alive_s) => max,
            _ => connect.keep_alive_s,
        };
        let credentials = Credentials {
            client: mqtt::ClientId::parse(connect.client_id.clone()).ok(),
            user_name: connect.user_name.take(),
            password: connect.password.take(),
        };
        self.connecting = Some(connect);
        self.effects
            .push_back(Effect::Authenticate(Box::new(credentials)));
    }

    fn connect_fault(&self, connect: &Connect) -> Option<ReasonCode> {
        let properties = &connect.properties;
        if properties.authentication_method.is_some() {
            return Some(ReasonCode::BadAuthenticationMethod);
        }
        if properties.authentication_data.is_some() {
            return Some(ReasonCode::ProtocolError);
        }
        let id = &connect.client_id;
        // 3.1.1 [MQTT-3.1.3-8]: an empty id asks for a clean session.
        let nameless = id.is_empty() && connect.version == Version::V311 && !connect.clean_start;
        if nameless || id.len() > self.config.client_id_bytes {
            return Some(ReasonCode::ClientIdentifierNotValid);
        }
        None
    }

    fn connack(&self, connect: &Connect, session_present: bool) -> ConnAck {
        let reason = ReasonCode::Success;
        if connect.version == Version::V311 {
            return ConnAck {
                session_present,
                reason,
                ..ConnAck::default()
            };
        }
        let asked_s = connect.properties.session_expiry_s.unwrap_or(0);
        let assigned = connect.client_id.is_empty();
        let properties = ConnAckProperties {
            session_expiry_s: (asked_s != self.expiry_s).then_some(self.expiry_s),
            receive_maximum: NonZeroU16::new(self.config.receive_maximum),
            maximum_packet_size: NonZeroU32::new(self.config.packet_bytes),
            assigned_client_id: self
                .client
                .as_ref()
                .filter(|_| assigned)
                .map(|client| client.text().clone()),
            topic_alias_maximum: Some(self.config.topic_alias_maximum),
            shared_subscription_available: Some(true),
            server_keep_alive_s: (self.keep_alive_s != connect.keep_alive_s)
                .then_some(self.keep_alive_s),
            ..ConnAckProperties::default()
        };
        ConnAck {
            session_present,
            reason,
            properties,
        }
    }

    /// Whether an ownership is held that a `Close` has to end.
    pub(super) fn is_owner(&self) -> bool {
        self.phase == Phase::Open && self.epoch != Epoch(0)
    }
}

fn is_normal_disconnect(packet: &Packet) -> bool {
    matches!(packet, Packet::Disconnect(disconnect) if disconnect.reason == ReasonCode::Success)
}

fn stored_will(mut will: Box<Will>, delay_s_max: u32) -> Box<Will> {
    will.topic = will.topic.detach();
    will.payload = bytes::Bytes::copy_from_slice(&will.payload);
    will.delay_s = Some(will.delay_s.unwrap_or(0).min(delay_s_max));
    if let Some(properties) = &mut will.properties {
        let properties: &mut PublishProperties = properties;
        detach_properties(properties);
    }
    will
}
