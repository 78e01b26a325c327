//! The program as its users meet it: real processes, real sockets, real folders, stock clients.

mod admission;
mod bad_input;
mod bench;
mod bridge;
mod chaos;
mod cluster;
mod demo;
mod http;
mod kafka;
mod kill;
mod malformed;
mod node;
mod paho;
mod rows;
mod sessions;
mod shared;
mod stock_clients;
mod stop;
mod store;
mod wait;
mod wire;
mod workload;
