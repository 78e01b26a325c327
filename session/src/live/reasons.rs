//! Which reason is said where: CONNACK and DISCONNECT each list codes of their own.

use mqtt::ReasonCode::{self, *};

//# [MQTT-3.2.2-8] The Server sending the CONNACK packet MUST use one of the Connect Reason Code
//# values
/// What says the same or nearly so, where only a DISCONNECT may carry the reason itself.
pub(super) fn for_connack(reason: ReasonCode) -> ReasonCode {
    match reason {
        ServerShuttingDown | SessionTakenOver | AdministrativeAction | KeepAliveTimeout
        | MaximumConnectTime => ServerUnavailable,
        MessageRateTooHigh => QuotaExceeded,
        TopicFilterInvalid
        | TopicAliasInvalid
        | ReceiveMaximumExceeded
        | PacketIdentifierInUse
        | PacketIdentifierNotFound => ProtocolError,
        SharedSubscriptionsNotSupported
        | SubscriptionIdentifiersNotSupported
        | WildcardSubscriptionsNotSupported => ImplementationSpecificError,
        other => other,
    }
}

//# [MQTT-3.14.2-1] The Client or Server sending the DISCONNECT packet MUST use one of the
//# DISCONNECT Reason Codes
/// What says the same or nearly so, where only a CONNACK or an acknowledgement may carry the
/// reason itself: a second CONNECT may be wrong in its own ways, too.
pub(super) fn for_disconnect(reason: ReasonCode) -> ReasonCode {
    match reason {
        UnsupportedProtocolVersion
        | ClientIdentifierNotValid
        | PacketIdentifierInUse
        | PacketIdentifierNotFound => ProtocolError,
        BadUserNameOrPassword | Banned => NotAuthorized,
        ServerUnavailable => ServerBusy,
        other => other,
    }
}
