//! The telemetry line from outside.

mod buckets;
mod crash;
mod dead_letters;
mod harness;
mod lazy_fs;
mod line;
mod moves;
mod stopped;
