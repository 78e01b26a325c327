//! Which reason codes each packet may carry.

use super::{DecodeError, Role};
use crate::ReasonCode;
use crate::ReasonCode::*;

/// Reads a code and refuses it unless it is listed.
pub(super) fn listed(
    code: u8,
    is_listed: impl Fn(ReasonCode) -> bool,
    clause: &'static str,
) -> Result<ReasonCode, DecodeError> {
    ReasonCode::try_from(code)
        .ok()
        .filter(|reason| is_listed(*reason))
        .ok_or_else(|| {
            DecodeError::protocol("reason code is not listed for this packet", clause).with(code)
        })
}

/// §3.2.2.2
pub(super) fn connack(reason: ReasonCode) -> bool {
    matches!(
        reason,
        Success
            | UnspecifiedError
            | MalformedPacket
            | ProtocolError
            | ImplementationSpecificError
            | UnsupportedProtocolVersion
            | ClientIdentifierNotValid
            | BadUserNameOrPassword
            | NotAuthorized
            | ServerUnavailable
            | ServerBusy
            | Banned
            | BadAuthenticationMethod
            | TopicNameInvalid
            | PacketTooLarge
            | QuotaExceeded
            | PayloadFormatInvalid
            | RetainNotSupported
            | QoSNotSupported
            | UseAnotherServer
            | ServerMoved
            | ConnectionRateExceeded
    )
}

/// PUBACK and PUBREC (§3.4.2.1, §3.5.2.1).
pub(super) fn received(reason: ReasonCode) -> bool {
    matches!(
        reason,
        Success
            | NoMatchingSubscribers
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicNameInvalid
            | PacketIdentifierInUse
            | QuotaExceeded
            | PayloadFormatInvalid
    )
}

/// PUBREL and PUBCOMP (§3.6.2.1, §3.7.2.1).
pub(super) fn released(reason: ReasonCode) -> bool {
    matches!(reason, Success | PacketIdentifierNotFound)
}

/// §3.9.3
pub(super) fn suback(reason: ReasonCode) -> bool {
    matches!(
        reason,
        Success
            | GrantedQoS1
            | GrantedQoS2
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicFilterInvalid
            | PacketIdentifierInUse
            | QuotaExceeded
            | SharedSubscriptionsNotSupported
            | SubscriptionIdentifiersNotSupported
            | WildcardSubscriptionsNotSupported
    )
}

/// 3.1.1 §3.9.3
pub(super) fn suback_v311(reason: ReasonCode) -> bool {
    matches!(
        reason,
        Success | GrantedQoS1 | GrantedQoS2 | UnspecifiedError
    )
}

/// §3.11.3
pub(super) fn unsuback(reason: ReasonCode) -> bool {
    matches!(
        reason,
        Success
            | NoSubscriptionExisted
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicFilterInvalid
            | PacketIdentifierInUse
    )
}

/// §3.14.2.1. 0x8C is listed for DISCONNECT in §2.4 only.
pub(super) fn disconnect(reason: ReasonCode, reader: Role) -> bool {
    match reason {
        UnspecifiedError
        | MalformedPacket
        | ProtocolError
        | ImplementationSpecificError
        | TopicNameInvalid
        | ReceiveMaximumExceeded
        | TopicAliasInvalid
        | PacketTooLarge
        | MessageRateTooHigh
        | QuotaExceeded
        | AdministrativeAction
        | PayloadFormatInvalid => true,
        Success | DisconnectWithWill => reader == Role::Server,
        NotAuthorized
        | ServerBusy
        | ServerShuttingDown
        | BadAuthenticationMethod
        | KeepAliveTimeout
        | SessionTakenOver
        | TopicFilterInvalid
        | RetainNotSupported
        | QoSNotSupported
        | UseAnotherServer
        | ServerMoved
        | SharedSubscriptionsNotSupported
        | ConnectionRateExceeded
        | MaximumConnectTime
        | SubscriptionIdentifiersNotSupported
        | WildcardSubscriptionsNotSupported => reader == Role::Client,
        _ => false,
    }
}

/// §3.15.2.1
pub(super) fn auth(reason: ReasonCode, reader: Role) -> bool {
    match reason {
        ContinueAuthentication => true,
        Success => reader == Role::Client,
        ReAuthenticate => reader == Role::Server,
        _ => false,
    }
}
