//! Three nodes as one broker, and what is left of it when nodes are killed or cut off.

mod client;
mod control;
mod failover;
mod history;
mod kill;
mod network;
mod nodes;
mod owned;
mod partition;
mod paused;
mod refusal;
mod rolling;
mod scale;
mod scenes;
mod telemetry;
