//! The name of a fleet member.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The id of a device: UTF-8, 1 to 256 bytes.
///
/// Ordered by its bytes. Cloning costs a reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// The longest id, in bytes.
    pub const BYTES_MAX: usize = 256;

    /// Checks and copies an id.
    ///
    /// # Errors
    /// [`DeviceIdError`] when it is empty or longer than [`DeviceId::BYTES_MAX`].
    pub fn parse(id: &str) -> Result<Self, DeviceIdError> {
        match id.len() {
            0 => Err(DeviceIdError::Empty),
            1..=Self::BYTES_MAX => Ok(Self(Arc::from(id))),
            len => Err(DeviceIdError::TooLong(len)),
        }
    }

    /// Checks and copies an id of stored or received bytes.
    ///
    /// # Errors
    /// [`DeviceIdError`] when it is no UTF-8, empty, or longer than [`DeviceId::BYTES_MAX`].
    pub fn from_bytes(id: &[u8]) -> Result<Self, DeviceIdError> {
        if id.len() > Self::BYTES_MAX {
            return Err(DeviceIdError::TooLong(id.len()));
        }
        Self::parse(std::str::from_utf8(id).map_err(|_| DeviceIdError::NotUtf8)?)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as bytes, the key of [`crate::bucket_of`].
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({:?})", &*self.0)
    }
}

/// Why bytes are no device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIdError {
    /// There are none.
    #[error("device id is empty")]
    Empty,
    /// Not well-formed UTF-8.
    #[error("device id is not well-formed UTF-8")]
    NotUtf8,
    /// More than [`DeviceId::BYTES_MAX`].
    #[error("device id of {0} bytes exceeds 256")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_between_1_and_256_bytes_of_utf_8() {
        assert_eq!(DeviceId::parse(""), Err(DeviceIdError::Empty));
        assert!(DeviceId::parse(&"x".repeat(256)).is_ok());
        assert_eq!(
            DeviceId::parse(&"x".repeat(257)),
            Err(DeviceIdError::TooLong(257))
        );
        assert_eq!(DeviceId::from_bytes(&[0xff]), Err(DeviceIdError::NotUtf8));
        assert_eq!(
            DeviceId::from_bytes(b"car42").map(|id| id.to_string()),
            Ok("car42".to_owned())
        );
    }

    #[test]
    fn ids_are_ordered_by_their_bytes() {
        let id = |text| DeviceId::parse(text).expect("a valid id");
        assert!(id("a") < id("aa"));
        assert!(id("Z") < id("a"));
        assert!(id("z") < id("é"));
    }
}
