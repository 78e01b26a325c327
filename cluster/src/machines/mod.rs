//! The machines of the three sorts of groups: rules of the pure crates, between entries and rows.

#[cfg(test)]
mod kept_test;
mod meta;
#[cfg(test)]
mod meta_test;
mod routes;
#[cfg(test)]
mod routes_test;

pub use meta::MetaMachine;
pub use routes::{RoutesConfig, RoutesMachine};
