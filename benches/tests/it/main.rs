//! Integration tests of the fleet, the ledger and the checker.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test is a failed test"
)]

mod check;
mod fleet;
mod folder;
mod ledger;
mod load;
mod options;
mod several;
