//! Packets on their way in, each from behind its fixed header.

use bytes::Bytes;

use super::listed::{self, listed};
use super::reader::Reader;
use super::{DecodeError, Role, decode_properties as properties};
use crate::*;

type Result<T> = std::result::Result<T, DecodeError>;

/// How a packet is to be read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) role: Role,
    pub(super) version: Version,
    pub(super) limits: &'a Limits,
}

/// Reads a CONNECT; it says itself which version it is. An error names the version to answer in.
pub(super) fn connect(body: Bytes, limits: &Limits) -> Result<Connect> {
    let mut reader = Reader::new(body);
    let version = protocol(&mut reader)?;
    connect_behind_version(reader, version, limits).map_err(|error| in_version(error, version))
}

fn in_version(mut error: DecodeError, version: Version) -> DecodeError {
    error.version = Some(version);
    error
}

/// Protocol name and level (§3.1.2.1, §3.1.2.2).
fn protocol(reader: &mut Reader) -> Result<Version> {
    let unsupported =
        |rule, clause| DecodeError::new(ReasonCode::UnsupportedProtocolVersion, rule, clause);
    match &*reader.binary()? {
        b"MQTT" => {}
        // 3.1, whose CONNACK is that of 3.1.1.
        b"MQIsdp" => {
            return Err(in_version(
                unsupported("protocol name is MQIsdp", "MQTT-3.1.2-1"),
                Version::V311,
            ));
        }
        _ => return Err(unsupported("protocol name is not MQTT", "MQTT-3.1.2-1")),
    }
    match reader.u8()? {
        4 => Ok(Version::V311),
        5 => Ok(Version::V5),
        // Later versions can be expected to know MQTT 5's CONNACK, earlier ones cannot; the top
        // bit marks bridges of 3.1.1.
        level => Err(in_version(
            unsupported("protocol version is neither 4 nor 5", "MQTT-3.1.2-2").with(level),
            if matches!(level, 6..0x80) {
                Version::V5
            } else {
                Version::V311
            },
        )),
    }
}

fn connect_behind_version(
    mut reader: Reader,
    version: Version,
    limits: &Limits,
) -> Result<Connect> {
    let flags = ConnectFlags::read(reader.u8()?, version)?;
    let keep_alive_s = reader.u16()?;
    let properties = match version {
        Version::V311 => ConnectProperties::default(),
        Version::V5 => properties::connect(&mut reader, limits)?,
    };
    let client_id = reader.text()?;
    if client_id.len() > limits.client_id_bytes_max {
        return Err(DecodeError::new(
            ReasonCode::ClientIdentifierNotValid,
            "client identifier exceeds the limit of bytes",
            "MQTT-3.1.3-8",
        )
        .with_len(client_id.len()));
    }
    let will = match flags.will {
        Some(will) => Some(Box::new(read_will(&mut reader, will, version, limits)?)),
        None => None,
    };
    let user_name = if flags.user_name {
        Some(reader.text()?)
    } else {
        None
    };
    let password = if flags.password {
        Some(reader.binary()?)
    } else {
        None
    };
    reader.finish()?;
    Ok(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive_s,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

struct ConnectFlags {
    clean_start: bool,
    will: Option<(QoS, bool)>,
    user_name: bool,
    password: bool,
}

impl ConnectFlags {
    fn read(flags: u8, version: Version) -> Result<Self> {
        //# [MQTT-3.1.2-3] The Server MUST validate that the reserved flag in the CONNECT packet is
        //# set to 0.
        if flags & 1 != 0 {
            return Err(DecodeError::malformed(
                "reserved connect flag is 1",
                "MQTT-3.1.2-3",
            ));
        }
        let qos = qos(flags >> 3)
            .ok_or_else(|| DecodeError::malformed("will QoS is 3", "MQTT-3.1.2-12"))?;
        let retain = flags & 0x20 != 0;
        let has_will = flags & 4 != 0;
        if !has_will && qos != QoS::AtMostOnce {
            return Err(DecodeError::malformed(
                "will QoS without a will",
                "MQTT-3.1.2-11",
            ));
        }
        if !has_will && retain {
            return Err(DecodeError::malformed(
                "will retain without a will",
                "MQTT-3.1.2-13",
            ));
        }
        let (user_name, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
        if version == Version::V311 && password && !user_name {
            return Err(DecodeError::malformed(
                "password without a user name",
                "MQTT-3.1.2-22 (3.1.1)",
            ));
        }
        Ok(Self {
            clean_start: flags & 2 != 0,
            will: has_will.then_some((qos, retain)),
            user_name,
            password,
        })
    }
}

fn read_will(
    reader: &mut Reader,
    (qos, retain): (QoS, bool),
    version: Version,
    limits: &Limits,
) -> Result<Will> {
    let (delay_s, properties) = match version {
        Version::V311 => (None, None),
        Version::V5 => properties::will(reader, limits)?,
    };
    let topic = reader
        .topic(limits)?
        .ok_or_else(|| DecodeError::protocol("will topic is empty", "MQTT-4.7.3-1"))?;
    let payload = reader.binary()?;
    Ok(Will {
        topic,
        payload,
        qos,
        retain,
        delay_s,
        properties,
    })
}

pub(super) fn connack(body: Bytes, reading: Reading<'_>) -> Result<ConnAck> {
    let mut reader = Reader::new(body);
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(
            DecodeError::malformed("reserved CONNACK flags are not 0", "MQTT-3.2.2-1").with(flags),
        );
    }
    let code = reader.u8()?;
    let mut connack = ConnAck {
        session_present: flags == 1,
        ..ConnAck::default()
    };
    match reading.version {
        Version::V311 => {
            connack.reason = ReasonCode::from_return_code_v311(code).ok_or_else(|| {
                DecodeError::protocol("return code is not listed", "§3.2.2.3 (3.1.1)").with(code)
            })?;
        }
        Version::V5 => {
            connack.reason = listed(code, listed::connack, "MQTT-3.2.2-8")?;
            connack.properties = properties::connack(&mut reader, reading.limits)?;
        }
    }
    if connack.session_present && connack.reason != ReasonCode::Success {
        return Err(DecodeError::protocol(
            "refusal says session present",
            "MQTT-3.2.2-6",
        ));
    }
    reader.finish()?;
    Ok(connack)
}

pub(super) fn publish(flags: u8, body: Bytes, reading: Reading<'_>) -> Result<Publish> {
    let qos =
        qos(flags >> 1).ok_or_else(|| DecodeError::malformed("QoS bits are 11", "MQTT-3.3.1-4"))?;
    let (dup, retain) = (flags & 8 != 0, flags & 1 != 0);
    if dup && qos == QoS::AtMostOnce {
        return Err(DecodeError::malformed("DUP is 1 at QoS 0", "MQTT-3.3.1-2"));
    }
    let mut reader = Reader::new(body);
    let topic = reader.topic(reading.limits)?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        _ => Some(reader.packet_id()?),
    };
    let parts = match reading.version {
        Version::V311 => properties::PublishParts::default(),
        Version::V5 => properties::publish(&mut reader, reading.limits, reading.role)?,
    };
    let topic = match topic {
        Some(topic) => topic,
        None if parts.topic_alias.is_some() => Topic::default(),
        None if reading.version == Version::V5 => {
            return Err(DecodeError::protocol(
                "topic name is empty without a topic alias",
                "§3.3.2.1",
            ));
        }
        None => return Err(DecodeError::protocol("topic name is empty", "MQTT-4.7.3-1")),
    };
    Ok(Publish {
        dup,
        qos,
        retain,
        topic,
        packet_id,
        payload: reader.remainder(),
        topic_alias: parts.topic_alias,
        subscription_ids: parts.subscription_ids,
        properties: parts.forwarded,
    })
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
pub(super) fn ack(
    body: Bytes,
    reading: Reading<'_>,
    is_listed: fn(ReasonCode) -> bool,
    clause: &'static str,
) -> Result<Ack> {
    let mut reader = Reader::new(body);
    let mut ack = Ack {
        packet_id: reader.packet_id()?,
        reason: ReasonCode::Success,
        properties: None,
    };
    if reading.version == Version::V5 && !reader.is_empty() {
        ack.reason = listed(reader.u8()?, is_listed, clause)?;
        if !reader.is_empty() {
            ack.properties = properties::reason(&mut reader, reading.limits)?;
        }
    }
    reader.finish()?;
    Ok(ack)
}

pub(super) fn subscribe(body: Bytes, reading: Reading<'_>) -> Result<Subscribe> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let (subscription_id, user_properties) = match reading.version {
        Version::V311 => (None, Vec::new()),
        Version::V5 => properties::subscribe(&mut reader, reading.limits)?,
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        check_count(filters.len(), reading.limits)?;
        let filter = reader.filter(reading.limits)?;
        let options = match reading.version {
            Version::V311 => options_v311(reader.u8()?)?,
            Version::V5 => options_v5(reader.u8()?, &filter)?,
        };
        filters.push((filter, options));
    }
    if filters.is_empty() {
        return Err(DecodeError::protocol(
            "SUBSCRIBE without a filter",
            "MQTT-3.8.3-2",
        ));
    }
    Ok(Subscribe {
        packet_id,
        filters,
        subscription_id,
        user_properties,
    })
}

fn options_v311(byte: u8) -> Result<SubscribeOptions> {
    match byte {
        0..=2 => {
            let qos = qos(byte).expect("0 to 2");
            Ok(SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            })
        }
        _ => Err(
            DecodeError::malformed("requested QoS is not 0, 1 or 2", "MQTT-3.8.3-4 (3.1.1)")
                .with(byte),
        ),
    }
}

fn options_v5(byte: u8, filter: &Filter) -> Result<SubscribeOptions> {
    if byte & 0xC0 != 0 {
        return Err(DecodeError::malformed(
            "reserved bits of the subscription options are not 0",
            "MQTT-3.8.3-5",
        )
        .with(byte));
    }
    let qos = qos(byte).ok_or_else(|| DecodeError::protocol("maximum QoS is 3", "§3.8.3.1"))?;
    let no_local = byte & 4 != 0;
    if no_local && filter.shared().is_some() {
        return Err(DecodeError::protocol(
            "no local on a shared subscription",
            "MQTT-3.8.3-4",
        ));
    }
    let retain_handling = match byte >> 4 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(DecodeError::protocol("retain handling is 3", "§3.8.3.1")),
    };
    Ok(SubscribeOptions {
        qos,
        no_local,
        retain_as_published: byte & 8 != 0,
        retain_handling,
    })
}

pub(super) fn suback(body: Bytes, reading: Reading<'_>) -> Result<SubAck> {
    let (is_listed, clause): (fn(_) -> _, _) = match reading.version {
        Version::V311 => (listed::suback_v311, "MQTT-3.9.3-2 (3.1.1)"),
        Version::V5 => (listed::suback, "MQTT-3.9.3-2"),
    };
    codes(body, reading, is_listed, clause)
}

pub(super) fn unsuback(body: Bytes, reading: Reading<'_>) -> Result<SubAck> {
    if reading.version == Version::V5 {
        return codes(body, reading, listed::unsuback, "MQTT-3.11.3-2");
    }
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    reader.finish()?;
    Ok(SubAck {
        packet_id,
        reasons: Vec::new(),
        properties: None,
    })
}

fn codes(
    body: Bytes,
    reading: Reading<'_>,
    is_listed: fn(ReasonCode) -> bool,
    clause: &'static str,
) -> Result<SubAck> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = match reading.version {
        Version::V311 => None,
        Version::V5 => properties::reason(&mut reader, reading.limits)?,
    };
    let mut reasons = Vec::new();
    while !reader.is_empty() {
        check_count(reasons.len(), reading.limits)?;
        reasons.push(listed(reader.u8()?, is_listed, clause)?);
    }
    if reasons.is_empty() {
        return Err(DecodeError::protocol(
            "answer without a reason code",
            "MQTT-3.8.4-6",
        ));
    }
    Ok(SubAck {
        packet_id,
        reasons,
        properties,
    })
}

pub(super) fn unsubscribe(body: Bytes, reading: Reading<'_>) -> Result<Unsubscribe> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let user_properties = match reading.version {
        Version::V311 => Vec::new(),
        Version::V5 => properties::unsubscribe(&mut reader, reading.limits)?,
    };
    let mut filters = Vec::new();
    while !reader.is_empty() {
        check_count(filters.len(), reading.limits)?;
        filters.push(reader.filter(reading.limits)?);
    }
    if filters.is_empty() {
        return Err(DecodeError::protocol(
            "UNSUBSCRIBE without a filter",
            "MQTT-3.10.3-2",
        ));
    }
    Ok(Unsubscribe {
        packet_id,
        filters,
        user_properties,
    })
}

pub(super) fn disconnect(body: Bytes, reading: Reading<'_>) -> Result<Disconnect> {
    let mut reader = Reader::new(body);
    let mut disconnect = Disconnect::default();
    if reading.version == Version::V5 {
        // Without a byte the reason is 0x00 (§3.14.2.1), which a server does not send.
        let code = if reader.is_empty() { 0 } else { reader.u8()? };
        disconnect.reason = listed(
            code,
            |reason| listed::disconnect(reason, reading.role),
            "MQTT-3.14.2-1",
        )?;
        if !reader.is_empty() {
            properties::disconnect(&mut reader, reading.limits, reading.role, &mut disconnect)?;
        }
    }
    reader.finish()?;
    Ok(disconnect)
}

pub(super) fn auth(body: Bytes, reading: Reading<'_>) -> Result<Auth> {
    let mut reader = Reader::new(body);
    let is_short = reader.is_empty();
    let code = if is_short { 0 } else { reader.u8()? };
    let mut auth = Auth {
        reason: listed(
            code,
            |reason| listed::auth(reason, reading.role),
            "MQTT-3.15.2-1",
        )?,
        authentication_method: None,
        authentication_data: None,
        properties: None,
    };
    if !is_short {
        properties::auth(&mut reader, reading.limits, &mut auth)?;
        if auth.authentication_method.is_none() {
            return Err(DecodeError::protocol(
                "AUTH without an authentication method",
                "§3.15.2.2.2",
            ));
        }
    }
    reader.finish()?;
    Ok(auth)
}

/// PINGREQ and PINGRESP.
pub(super) fn empty(body: Bytes, packet: Packet) -> Result<Packet> {
    Reader::new(body).finish()?;
    Ok(packet)
}

/// The lowest two bits; `None` for 3.
fn qos(bits: u8) -> Option<QoS> {
    match bits & 3 {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

fn check_count(count: usize, limits: &Limits) -> Result<()> {
    if count < limits.filters_max {
        return Ok(());
    }
    Err(DecodeError::new(
        ReasonCode::QuotaExceeded,
        "too many filters or codes in one packet",
        "§3.8.3",
    ))
}
