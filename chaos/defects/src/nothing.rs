//! A build without the feature: nothing is carried, and whoever asks is compiled to the right thing.

use crate::{Defect, Error, Load, Strain};

/// Whether this build can carry anything.
#[must_use]
pub const fn is_faulty_build() -> bool {
    false
}

/// Refuses anything but an empty load.
///
/// # Errors
/// [`Error::CleanBuild`].
pub fn carry(load: Load) -> Result<(), Error> {
    if load.is_empty() {
        Ok(())
    } else {
        Err(Error::CleanBuild)
    }
}

/// Whether this process carries a defect: no.
#[must_use]
pub const fn is(_: Defect) -> bool {
    false
}

/// The value of a strain: 0, none.
#[must_use]
pub const fn value(_: Strain) -> u32 {
    0
}

/// Whether a strain happens this time: no.
#[must_use]
pub const fn happens(_: Strain) -> bool {
    false
}
