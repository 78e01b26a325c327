//! A build with the feature `faults`: what the process was told to carry, for its whole life.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Defect, Error, Load, Strain};

static LOAD: OnceLock<Load> = OnceLock::new();
/// How often each strain was asked about.
static ASKED: [AtomicU32; Strain::ALL.len()] = [const { AtomicU32::new(0) }; Strain::ALL.len()];

/// Whether this build can carry anything.
#[must_use]
pub const fn is_faulty_build() -> bool {
    true
}

/// Takes a load up, before anything else is done; a later one changes nothing.
///
/// # Errors
/// None in this build.
pub fn carry(load: Load) -> Result<(), Error> {
    // A process is given its load once.
    let _ = LOAD.set(load);
    Ok(())
}

/// Whether this process carries a defect.
#[must_use]
pub fn is(defect: Defect) -> bool {
    LOAD.get().is_some_and(|load| load.defect == Some(defect))
}

/// The value of a strain; 0: none.
#[must_use]
pub fn value(strain: Strain) -> u32 {
    LOAD.get().map_or(0, |load| load.strains[strain as usize])
}

/// Whether a strain that happens once in so many times happens this time.
#[must_use]
pub fn happens(strain: Strain) -> bool {
    let every = value(strain);
    every > 0 && ASKED[strain as usize].fetch_add(1, Ordering::Relaxed) % every == every - 1
}
