//! From the broker to the log, and from the log to the time-series store.
