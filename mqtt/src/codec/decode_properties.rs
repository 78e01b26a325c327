//! Properties on their way in (§2.2.2).

use std::num::{NonZeroU16, NonZeroU32};

use super::property as id;
use super::reader::Reader;
use super::{DecodeError, Role};
use crate::*;

type Result<T> = std::result::Result<T, DecodeError>;
type UserPairs = Vec<(Text, Text)>;

pub(super) fn connect(reader: &mut Reader, limits: &Limits) -> Result<ConnectProperties> {
    let mut found = ConnectProperties::default();
    let mut user = UserProperties::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::SESSION_EXPIRY_INTERVAL => once(&mut found.session_expiry_s, block.u32()?)?,
            id::RECEIVE_MAXIMUM => once(&mut found.receive_maximum, non_zero_u16(&mut block)?)?,
            id::MAXIMUM_PACKET_SIZE => {
                once(&mut found.maximum_packet_size, packet_size(&mut block)?)?;
            }
            id::TOPIC_ALIAS_MAXIMUM => once(&mut found.topic_alias_maximum, block.u16()?)?,
            id::REQUEST_RESPONSE_INFORMATION => {
                once(&mut found.request_response_information, bool(&mut block)?)?;
            }
            id::REQUEST_PROBLEM_INFORMATION => {
                once(&mut found.request_problem_information, bool(&mut block)?)?;
            }
            id::USER_PROPERTY => user.read(&mut block)?,
            id::AUTHENTICATION_METHOD => once(&mut found.authentication_method, block.text()?)?,
            id::AUTHENTICATION_DATA => once(&mut found.authentication_data, block.binary()?)?,
            other => return Err(not_allowed(other)),
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(DecodeError::protocol(
            "authentication data without a method",
            "§3.1.2.11.10",
        ));
    }
    found.user_properties = user.pairs;
    Ok(found)
}

/// The delay, and what is forwarded with the message.
pub(super) fn will(
    reader: &mut Reader,
    limits: &Limits,
) -> Result<(Option<u32>, Option<Box<PublishProperties>>)> {
    let mut delay_s = None;
    let mut message = Message::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::WILL_DELAY_INTERVAL => once(&mut delay_s, block.u32()?)?,
            other => message.read(other, &mut block, limits)?,
        }
    }
    Ok((delay_s, message.finish()))
}

pub(super) fn connack(reader: &mut Reader, limits: &Limits) -> Result<ConnAckProperties> {
    let mut found = ConnAckProperties::default();
    let mut user = UserProperties::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::SESSION_EXPIRY_INTERVAL => once(&mut found.session_expiry_s, block.u32()?)?,
            id::RECEIVE_MAXIMUM => once(&mut found.receive_maximum, non_zero_u16(&mut block)?)?,
            id::MAXIMUM_QOS => once(&mut found.maximum_qos, maximum_qos(&mut block)?)?,
            id::RETAIN_AVAILABLE => once(&mut found.retain_available, bool(&mut block)?)?,
            id::MAXIMUM_PACKET_SIZE => {
                once(&mut found.maximum_packet_size, packet_size(&mut block)?)?;
            }
            id::ASSIGNED_CLIENT_IDENTIFIER => once(&mut found.assigned_client_id, block.text()?)?,
            id::TOPIC_ALIAS_MAXIMUM => once(&mut found.topic_alias_maximum, block.u16()?)?,
            id::REASON_STRING => once(&mut found.reason_string, block.text()?)?,
            id::USER_PROPERTY => user.read(&mut block)?,
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                once(
                    &mut found.wildcard_subscription_available,
                    bool(&mut block)?,
                )?;
            }
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => {
                once(&mut found.subscription_ids_available, bool(&mut block)?)?;
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                once(&mut found.shared_subscription_available, bool(&mut block)?)?;
            }
            id::SERVER_KEEP_ALIVE => once(&mut found.server_keep_alive_s, block.u16()?)?,
            id::RESPONSE_INFORMATION => once(&mut found.response_information, block.text()?)?,
            id::SERVER_REFERENCE => once(&mut found.server_reference, block.text()?)?,
            id::AUTHENTICATION_METHOD => once(&mut found.authentication_method, block.text()?)?,
            id::AUTHENTICATION_DATA => once(&mut found.authentication_data, block.binary()?)?,
            other => return Err(not_allowed(other)),
        }
    }
    found.user_properties = user.pairs;
    Ok(found)
}

/// The properties of a PUBLISH: alias, identifiers, and what is forwarded.
#[derive(Default)]
pub(super) struct PublishParts {
    pub(super) topic_alias: Option<NonZeroU16>,
    pub(super) subscription_ids: SubscriptionIds,
    pub(super) forwarded: Option<Box<PublishProperties>>,
}

pub(super) fn publish(reader: &mut Reader, limits: &Limits, role: Role) -> Result<PublishParts> {
    let mut block = reader.block()?;
    let mut found = PublishParts::default();
    if block.is_empty() {
        return Ok(found);
    }
    let mut message = Message::new(limits);
    while let Some(property) = next(&mut block)? {
        match property {
            id::TOPIC_ALIAS => {
                //# [MQTT-3.3.2-8] A sender MUST NOT send a PUBLISH packet containing a Topic Alias
                //# which has the value 0.
                let alias = NonZeroU16::new(block.u16()?).ok_or_else(|| {
                    DecodeError::new(
                        ReasonCode::TopicAliasInvalid,
                        "topic alias is 0",
                        "MQTT-3.3.2-8",
                    )
                })?;
                once(&mut found.topic_alias, alias)?;
            }
            id::SUBSCRIPTION_IDENTIFIER => {
                //# [MQTT-3.3.4-6] A PUBLISH packet sent from a Client to a Server MUST NOT contain
                //# a Subscription Identifier.
                if role == Role::Server {
                    return Err(DecodeError::protocol(
                        "client's PUBLISH contains a subscription identifier",
                        "MQTT-3.3.4-6",
                    ));
                }
                if found.subscription_ids.len() == limits.subscription_ids_max {
                    return Err(over_quota(
                        "too many subscription identifiers",
                        "§3.3.2.3.8",
                    ));
                }
                found.subscription_ids.push(subscription_id(&mut block)?);
            }
            other => message.read(other, &mut block, limits)?,
        }
    }
    found.forwarded = message.finish();
    Ok(found)
}

/// Reason string and user properties, alone in their packet.
pub(super) fn reason(
    reader: &mut Reader,
    limits: &Limits,
) -> Result<Option<Box<ReasonProperties>>> {
    let mut found = Reason::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        found.read(property, &mut block)?;
    }
    Ok(found.finish())
}

/// Subscription identifier and user properties.
pub(super) fn subscribe(
    reader: &mut Reader,
    limits: &Limits,
) -> Result<(Option<NonZeroU32>, UserPairs)> {
    let mut id = None;
    let mut user = UserProperties::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::SUBSCRIPTION_IDENTIFIER => once(&mut id, subscription_id(&mut block)?)?,
            id::USER_PROPERTY => user.read(&mut block)?,
            other => return Err(not_allowed(other)),
        }
    }
    Ok((id, user.pairs))
}

pub(super) fn unsubscribe(reader: &mut Reader, limits: &Limits) -> Result<UserPairs> {
    let mut user = UserProperties::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::USER_PROPERTY => user.read(&mut block)?,
            other => return Err(not_allowed(other)),
        }
    }
    Ok(user.pairs)
}

pub(super) fn disconnect(
    reader: &mut Reader,
    limits: &Limits,
    role: Role,
    into: &mut Disconnect,
) -> Result<()> {
    let mut reason = Reason::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match (property, role) {
            (id::SESSION_EXPIRY_INTERVAL, Role::Server) => {
                once(&mut into.session_expiry_s, block.u32()?)?;
            }
            //# [MQTT-3.14.2-2] The Session Expiry Interval MUST NOT be sent on a DISCONNECT by the
            //# Server.
            (id::SESSION_EXPIRY_INTERVAL, Role::Client) => {
                return Err(DecodeError::protocol(
                    "server's DISCONNECT contains a session expiry interval",
                    "MQTT-3.14.2-2",
                ));
            }
            (id::SERVER_REFERENCE, Role::Client) => {
                once(&mut into.server_reference, block.text()?)?;
            }
            (id::SERVER_REFERENCE, Role::Server) => {
                return Err(DecodeError::protocol(
                    "client's DISCONNECT contains a server reference",
                    "§3.14.2.2.5",
                ));
            }
            (other, _) => reason.read(other, &mut block)?,
        }
    }
    into.properties = reason.finish();
    Ok(())
}

pub(super) fn auth(reader: &mut Reader, limits: &Limits, into: &mut Auth) -> Result<()> {
    let mut reason = Reason::new(limits);
    let mut block = reader.block()?;
    while let Some(property) = next(&mut block)? {
        match property {
            id::AUTHENTICATION_METHOD => once(&mut into.authentication_method, block.text()?)?,
            id::AUTHENTICATION_DATA => once(&mut into.authentication_data, block.binary()?)?,
            other => reason.read(other, &mut block)?,
        }
    }
    into.properties = reason.finish();
    Ok(())
}

/// The properties that travel with a message; boxed once there is one.
struct Message<'a> {
    found: Option<Box<PublishProperties>>,
    user: UserProperties<'a>,
}

impl<'a> Message<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            found: None,
            user: UserProperties::new(limits),
        }
    }

    fn read(&mut self, property: u8, block: &mut Reader, limits: &Limits) -> Result<()> {
        let found = self.found.get_or_insert_default();
        match property {
            id::PAYLOAD_FORMAT_INDICATOR => once(&mut found.payload_is_utf8, bool(block)?),
            id::MESSAGE_EXPIRY_INTERVAL => once(&mut found.message_expiry_s, block.u32()?),
            id::RESPONSE_TOPIC => once(&mut found.response_topic, response_topic(block, limits)?),
            id::CORRELATION_DATA => once(&mut found.correlation_data, block.binary()?),
            id::CONTENT_TYPE => once(&mut found.content_type, block.text()?),
            id::USER_PROPERTY => self.user.read(block),
            other => Err(not_allowed(other)),
        }
    }

    fn finish(mut self) -> Option<Box<PublishProperties>> {
        if let Some(found) = &mut self.found {
            found.user_properties = self.user.pairs;
        }
        self.found
    }
}

struct Reason<'a> {
    reason_string: Option<Text>,
    user: UserProperties<'a>,
}

impl<'a> Reason<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            reason_string: None,
            user: UserProperties::new(limits),
        }
    }

    fn read(&mut self, property: u8, block: &mut Reader) -> Result<()> {
        match property {
            id::REASON_STRING => once(&mut self.reason_string, block.text()?),
            id::USER_PROPERTY => self.user.read(block),
            other => Err(not_allowed(other)),
        }
    }

    fn finish(self) -> Option<Box<ReasonProperties>> {
        if self.reason_string.is_none() && self.user.pairs.is_empty() {
            return None;
        }
        Some(Box::new(ReasonProperties {
            reason_string: self.reason_string,
            user_properties: self.user.pairs,
        }))
    }
}

struct UserProperties<'a> {
    limits: &'a Limits,
    pairs: UserPairs,
    bytes: usize,
}

impl<'a> UserProperties<'a> {
    fn new(limits: &'a Limits) -> Self {
        Self {
            limits,
            pairs: Vec::new(),
            bytes: 0,
        }
    }

    fn read(&mut self, block: &mut Reader) -> Result<()> {
        let (name, value) = (block.text()?, block.text()?);
        self.bytes += name.len() + value.len();
        if self.pairs.len() == self.limits.user_properties_max {
            return Err(over_quota("too many user properties", "§2.2.2.2"));
        }
        if self.bytes > self.limits.user_properties_bytes_max {
            return Err(over_quota("too many bytes of user properties", "§2.2.2.2"));
        }
        self.pairs.push((name, value));
        Ok(())
    }
}

/// The identifier of the next property. All known ones take one byte of the variable byte integer.
fn next(block: &mut Reader) -> Result<Option<u8>> {
    if block.is_empty() {
        return Ok(None);
    }
    let property = block.varint()?;
    u8::try_from(property).map(Some).map_err(|_| {
        DecodeError::malformed("property identifier is unknown", "§2.2.2.2").with(property)
    })
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::protocol(
            "property is included more than once",
            "§2.2.2.2",
        )),
    }
}

fn not_allowed(property: u8) -> DecodeError {
    DecodeError::malformed(
        "property identifier is not valid in this packet",
        "§2.2.2.2",
    )
    .with(property)
}

fn over_quota(rule: &'static str, clause: &'static str) -> DecodeError {
    DecodeError::new(ReasonCode::QuotaExceeded, rule, clause)
}

fn bool(block: &mut Reader) -> Result<bool> {
    match block.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::protocol("property is neither 0 nor 1", "§2.2.2.2").with(other)),
    }
}

fn non_zero_u16(block: &mut Reader) -> Result<NonZeroU16> {
    NonZeroU16::new(block.u16()?)
        .ok_or_else(|| DecodeError::protocol("receive maximum is 0", "§3.1.2.11.3"))
}

fn packet_size(block: &mut Reader) -> Result<NonZeroU32> {
    NonZeroU32::new(block.u32()?)
        .ok_or_else(|| DecodeError::protocol("maximum packet size is 0", "§3.1.2.11.4"))
}

fn maximum_qos(block: &mut Reader) -> Result<QoS> {
    match block.u8()? {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        other => {
            Err(DecodeError::protocol("maximum QoS is neither 0 nor 1", "§3.2.2.3.4").with(other))
        }
    }
}

fn subscription_id(block: &mut Reader) -> Result<NonZeroU32> {
    NonZeroU32::new(block.varint()?)
        .ok_or_else(|| DecodeError::protocol("subscription identifier is 0", "§3.8.2.1.2"))
}

fn response_topic(block: &mut Reader, limits: &Limits) -> Result<Topic> {
    match block.topic(limits) {
        Ok(Some(topic)) => Ok(topic),
        Ok(None) => Err(DecodeError::protocol(
            "response topic is empty",
            "MQTT-4.7.3-1",
        )),
        //# [MQTT-3.3.2-14] The Response Topic MUST NOT contain wildcard characters.
        Err(error) if error.clause == "MQTT-3.3.2-2" => Err(DecodeError::protocol(
            "response topic contains a wildcard character",
            "MQTT-3.3.2-14",
        )),
        Err(error) => Err(error),
    }
}
