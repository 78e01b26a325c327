//! The simulated fleet, the demo and its checker, and the measurements.
//!
//! Data meets the modules in this order: [`profile`] says what a device measures, [`fleet`] sends
//! it over MQTT, [`ledger`] writes down what was sent and acknowledged, [`pairs`] send through sessions
//! of several nodes, and [`demo`] runs the whole line and compares the ledger with the store. Beside it [`density`] measures encodings
//! and [`pipeline`] the line under load, [`load`] loads any broker over MQTT, [`compare`] sets brokers beside each
//! other, [`surge`] sends more than the store takes, [`storm`] cuts clients off at once, [`sessions`] measures durable
//! sessions, [`cluster`] several nodes, [`cost`] what a message costs on more and more of them; [`machine`] says on what a
//! figure was measured, [`chart`] draws it.

#![forbid(unsafe_code)]

pub mod profile;

pub mod fleet;

pub mod ledger;

pub mod pairs;

pub mod ports;

pub mod demo;

pub mod density;

pub mod pipeline;

pub mod cpu;
pub mod machine;

pub mod load;

pub mod chart;

pub mod compare;

pub mod sessions;

pub mod cluster;

pub mod cost;

pub mod surge;

pub mod storm;
