//! Types of the admin API and its client.

pub mod query;
