//! The first byte of the fixed header (§2.1.1).

use super::{DecodeError, Role};
use crate::Version;

/// The control packet type (§2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketType {
    Connect,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    PingReq,
    PingResp,
    Disconnect,
    Auth,
}

impl PacketType {
    /// Reads the type, and checks that such a packet may come now, from that side, with those
    /// flags. The flags of a PUBLISH are left to its body.
    pub(super) fn of(
        first_byte: u8,
        reader: Role,
        version: Option<Version>,
    ) -> Result<Self, DecodeError> {
        let kind = Self::from_bits(first_byte >> 4)
            .ok_or_else(|| DecodeError::malformed("packet type 0 is reserved", "§2.1.2"))?;
        //# [MQTT-3.1.0-1] After a Network Connection is established by a Client to a Server, the
        //# first packet sent from the Client to the Server MUST be a CONNECT packet.
        if version.is_none() && kind != Self::Connect {
            return Err(
                DecodeError::protocol("first packet is not a CONNECT", "MQTT-3.1.0-1")
                    .with(first_byte >> 4),
            );
        }
        if kind == Self::Auth && version == Some(Version::V311) {
            return Err(DecodeError::malformed(
                "packet type 15 is reserved",
                "§2.2.1 (3.1.1)",
            ));
        }
        if !kind.goes_to(reader, version) {
            return Err(DecodeError::protocol(
                "packet type does not go in this direction",
                "§2.1.2",
            )
            .with(first_byte >> 4));
        }
        //# [MQTT-2.1.3-1] Where a flag bit is marked as "Reserved" it is reserved for future use
        //# and MUST be set to the value listed.
        if let Some((flags, clause)) = kind.flags()
            && first_byte & 0x0F != flags
        {
            return Err(
                DecodeError::malformed("reserved flags have another value", clause)
                    .with(first_byte & 0x0F),
            );
        }
        Ok(kind)
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    fn goes_to(self, reader: Role, version: Option<Version>) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                reader == Role::Server
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                reader == Role::Client
            }
            Self::Disconnect => reader == Role::Server || version == Some(Version::V5),
            Self::Publish
            | Self::PubAck
            | Self::PubRec
            | Self::PubRel
            | Self::PubComp
            | Self::Auth => true,
        }
    }

    /// The value of the flags and the clause that says so; `None` for PUBLISH.
    fn flags(self) -> Option<(u8, &'static str)> {
        match self {
            Self::Publish => None,
            Self::PubRel => Some((2, "MQTT-3.6.1-1")),
            Self::Subscribe => Some((2, "MQTT-3.8.1-1")),
            Self::Unsubscribe => Some((2, "MQTT-3.10.1-1")),
            Self::Disconnect => Some((0, "MQTT-3.14.1-1")),
            Self::Auth => Some((0, "MQTT-3.15.1-1")),
            _ => Some((0, "MQTT-2.1.3-1")),
        }
    }
}
