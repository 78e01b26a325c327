//! Types of the admin API and its client.
