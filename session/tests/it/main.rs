//! Sessions through both machines and the real codec, in virtual time.

mod client;
mod commands;
mod conformance_connect;
mod conformance_publish;
mod conformance_shared;
mod conformance_subscribe;
mod corpus;
mod fuzz_ledger;
mod fuzz_live;
mod fuzz_packets;
mod groups;
mod schedules;
mod stored;
mod wills;
mod world;
