//! A whole node in this process, spoken to over TCP.

mod admin_http;
mod bridge;
mod crash;
mod delivery;
mod expiry;
mod gate;
mod harness;
mod nodes;
mod outbox;
mod pressure;
mod restart;
mod retained;
mod routes;
mod sessions;
mod shared;
mod stop;
mod streams;
mod stuck;
mod templates;
mod tls;
mod wills;
