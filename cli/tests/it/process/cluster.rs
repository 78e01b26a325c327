//! Three nodes as one broker, and what is left of it when nodes are killed or cut off.

mod bucket_moves;
mod client;
mod clients;
mod control;
mod failover;
mod haproxy;
mod health;
mod history;
mod home;
mod kill;
mod moving;
mod network;
mod nodes;
mod owned;
mod partition;
mod paused;
mod recovery;
mod refusal;
mod rolling;
mod scale;
mod scenes;
mod scrape;
mod shards;
mod telemetry;
mod trace;
