//! The simulated fleet, the demo and its checker.
//!
//! Data meets the modules in this order: [`profile`] says what a device measures, [`fleet`] sends
//! it over MQTT, [`ledger`] writes down what was sent and acknowledged, and [`demo`] runs the
//! whole line and compares the ledger with the store.

#![forbid(unsafe_code)]

pub mod profile;

pub mod fleet;

pub mod ledger;

pub mod demo;
