//! Why bytes are refused.

use std::fmt;

use crate::{ReasonCode, Version};

/// A packet broke a rule. The stream is unusable from here on: answer if the protocol knows an
/// answer, then close the connection `[MQTT-4.13.1-1]` (3.1.1: `[MQTT-4.8.0-1]`).
///
/// The refused packet may have been taken from the buffer in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What to say in CONNACK (if it was a CONNECT) or DISCONNECT.
    pub reason: ReasonCode,
    /// The version to answer in. `None` when it is unknown, because there was no CONNECT yet or
    /// none that either version would understand; then just close.
    ///
    /// 3.1.1 knows no DISCONNECT from a server, and a CONNACK only for reasons with a
    /// [`ReasonCode::return_code_v311`]; a malformed 3.1.1 CONNECT is closed without any
    /// `[MQTT-3.1.4-1]` (3.1.1). [`crate::encode`] writes nothing in these cases.
    pub version: Option<Version>,
    /// The rule that was broken.
    pub rule: &'static str,
    /// The clause that states it, numbered as in MQTT 5 where both versions state it.
    pub clause: &'static str,
    /// The value that broke it, if there is one.
    pub value: Option<u32>,
}

impl DecodeError {
    #[cold]
    pub(super) fn new(reason: ReasonCode, rule: &'static str, clause: &'static str) -> Self {
        Self {
            reason,
            version: None,
            rule,
            clause,
            value: None,
        }
    }

    #[cold]
    pub(super) fn malformed(rule: &'static str, clause: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, rule, clause)
    }

    #[cold]
    pub(super) fn protocol(rule: &'static str, clause: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, rule, clause)
    }

    pub(super) fn with(mut self, value: impl Into<u32>) -> Self {
        self.value = Some(value.into());
        self
    }

    pub(super) fn with_len(self, len: usize) -> Self {
        self.with(u32::try_from(len).unwrap_or(u32::MAX))
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule)?;
        if let Some(value) = self.value {
            write!(f, ": {value}")?;
        }
        write!(f, " [{}]", self.clause)
    }
}

impl std::error::Error for DecodeError {}
