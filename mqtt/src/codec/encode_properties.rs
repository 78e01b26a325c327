//! Properties on their way out (§2.2.2). Absent properties are not written.

use super::PublishRef;
use super::encode::Keep;
use super::property as id;
use super::sink::Sink;
use crate::*;

type Out<'a> = &'a mut dyn Sink;

pub(super) fn connect(properties: &ConnectProperties, out: Out<'_>) {
    u32(
        id::SESSION_EXPIRY_INTERVAL,
        properties.session_expiry_s,
        out,
    );
    u16(
        id::RECEIVE_MAXIMUM,
        properties.receive_maximum.map(Into::into),
        out,
    );
    u32(
        id::MAXIMUM_PACKET_SIZE,
        properties.maximum_packet_size.map(Into::into),
        out,
    );
    u16(id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum, out);
    bool(
        id::REQUEST_RESPONSE_INFORMATION,
        properties.request_response_information,
        out,
    );
    bool(
        id::REQUEST_PROBLEM_INFORMATION,
        properties.request_problem_information,
        out,
    );
    user(&properties.user_properties, out);
    text(
        id::AUTHENTICATION_METHOD,
        properties.authentication_method.as_ref(),
        out,
    );
    binary(
        id::AUTHENTICATION_DATA,
        properties.authentication_data.as_deref(),
        out,
    );
}

pub(super) fn will(will: &Will, out: Out<'_>) {
    u32(id::WILL_DELAY_INTERVAL, will.delay_s, out);
    if let Some(properties) = &will.properties {
        message(properties, properties.message_expiry_s, out);
    }
}

pub(super) fn connack(properties: &ConnAckProperties, keep: Keep, out: Out<'_>) {
    u32(
        id::SESSION_EXPIRY_INTERVAL,
        properties.session_expiry_s,
        out,
    );
    u16(
        id::RECEIVE_MAXIMUM,
        properties.receive_maximum.map(Into::into),
        out,
    );
    u8(
        id::MAXIMUM_QOS,
        properties.maximum_qos.map(|qos| qos as u8),
        out,
    );
    bool(id::RETAIN_AVAILABLE, properties.retain_available, out);
    u32(
        id::MAXIMUM_PACKET_SIZE,
        properties.maximum_packet_size.map(Into::into),
        out,
    );
    text(
        id::ASSIGNED_CLIENT_IDENTIFIER,
        properties.assigned_client_id.as_ref(),
        out,
    );
    u16(id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum, out);
    reason_string(properties.reason_string.as_ref(), keep, out);
    reason_user(&properties.user_properties, keep, out);
    bool(
        id::WILDCARD_SUBSCRIPTION_AVAILABLE,
        properties.wildcard_subscription_available,
        out,
    );
    bool(
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        properties.subscription_ids_available,
        out,
    );
    bool(
        id::SHARED_SUBSCRIPTION_AVAILABLE,
        properties.shared_subscription_available,
        out,
    );
    u16(id::SERVER_KEEP_ALIVE, properties.server_keep_alive_s, out);
    text(
        id::RESPONSE_INFORMATION,
        properties.response_information.as_ref(),
        out,
    );
    text(
        id::SERVER_REFERENCE,
        properties.server_reference.as_ref(),
        out,
    );
    text(
        id::AUTHENTICATION_METHOD,
        properties.authentication_method.as_ref(),
        out,
    );
    binary(
        id::AUTHENTICATION_DATA,
        properties.authentication_data.as_deref(),
        out,
    );
}

pub(super) fn publish(publish: &PublishRef<'_>, out: Out<'_>) {
    u16(id::TOPIC_ALIAS, publish.topic_alias.map(Into::into), out);
    for subscription_id in publish.subscription_ids {
        out.u8(id::SUBSCRIPTION_IDENTIFIER);
        out.varint(subscription_id.get());
    }
    match publish.properties {
        Some(properties) => {
            message(
                properties,
                publish.message_expiry_s.or(properties.message_expiry_s),
                out,
            );
        }
        None => u32(id::MESSAGE_EXPIRY_INTERVAL, publish.message_expiry_s, out),
    }
}

pub(super) fn subscribe(subscribe: &Subscribe, out: Out<'_>) {
    if let Some(subscription_id) = subscribe.subscription_id {
        out.u8(id::SUBSCRIPTION_IDENTIFIER);
        out.varint(subscription_id.get());
    }
    user(&subscribe.user_properties, out);
}

pub(super) fn disconnect_has_any(disconnect: &Disconnect, keep: Keep) -> bool {
    disconnect.session_expiry_s.is_some()
        || disconnect.server_reference.is_some()
        || has_reason_properties(disconnect.properties.as_deref(), keep)
}

pub(super) fn disconnect(disconnect: &Disconnect, keep: Keep, out: Out<'_>) {
    u32(
        id::SESSION_EXPIRY_INTERVAL,
        disconnect.session_expiry_s,
        out,
    );
    text(
        id::SERVER_REFERENCE,
        disconnect.server_reference.as_ref(),
        out,
    );
    reason(disconnect.properties.as_deref(), keep, out);
}

pub(super) fn auth(auth: &Auth, keep: Keep, out: Out<'_>) {
    text(
        id::AUTHENTICATION_METHOD,
        auth.authentication_method.as_ref(),
        out,
    );
    binary(
        id::AUTHENTICATION_DATA,
        auth.authentication_data.as_deref(),
        out,
    );
    reason(auth.properties.as_deref(), keep, out);
}

pub(super) fn has_reason_properties(properties: Option<&ReasonProperties>, keep: Keep) -> bool {
    properties.is_some_and(|properties| match keep {
        Keep::All => properties.reason_string.is_some() || !properties.user_properties.is_empty(),
        Keep::ReasonString => properties.reason_string.is_some(),
        Keep::Neither => false,
    })
}

pub(super) fn reason(properties: Option<&ReasonProperties>, keep: Keep, out: Out<'_>) {
    if let Some(properties) = properties {
        reason_string(properties.reason_string.as_ref(), keep, out);
        reason_user(&properties.user_properties, keep, out);
    }
}

pub(super) fn user(pairs: &[(Text, Text)], out: Out<'_>) {
    for (name, value) in pairs {
        out.u8(id::USER_PROPERTY);
        out.text(name);
        out.text(value);
    }
}

fn message(properties: &PublishProperties, expiry_s: Option<u32>, out: Out<'_>) {
    bool(
        id::PAYLOAD_FORMAT_INDICATOR,
        properties.payload_is_utf8,
        out,
    );
    u32(id::MESSAGE_EXPIRY_INTERVAL, expiry_s, out);
    text(
        id::RESPONSE_TOPIC,
        properties.response_topic.as_ref().map(Topic::text),
        out,
    );
    binary(
        id::CORRELATION_DATA,
        properties.correlation_data.as_deref(),
        out,
    );
    text(id::CONTENT_TYPE, properties.content_type.as_ref(), out);
    user(&properties.user_properties, out);
}

fn reason_string(value: Option<&Text>, keep: Keep, out: Out<'_>) {
    if keep != Keep::Neither {
        text(id::REASON_STRING, value, out);
    }
}

fn reason_user(pairs: &[(Text, Text)], keep: Keep, out: Out<'_>) {
    if keep == Keep::All {
        user(pairs, out);
    }
}

fn bool(id: u8, value: Option<bool>, out: Out<'_>) {
    u8(id, value.map(u8::from), out);
}

fn u8(id: u8, value: Option<u8>, out: Out<'_>) {
    if let Some(value) = value {
        out.put(&[id, value]);
    }
}

fn u16(id: u8, value: Option<u16>, out: Out<'_>) {
    if let Some(value) = value {
        out.u8(id);
        out.u16(value);
    }
}

fn u32(id: u8, value: Option<u32>, out: Out<'_>) {
    if let Some(value) = value {
        out.u8(id);
        out.u32(value);
    }
}

fn text(id: u8, value: Option<&Text>, out: Out<'_>) {
    binary(id, value.map(|text| &**text.as_bytes()), out);
}

fn binary(id: u8, value: Option<&[u8]>, out: Out<'_>) {
    if let Some(value) = value {
        out.u8(id);
        out.binary(value);
    }
}
