//! What a node has done, for `/metrics`.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])* $name:ident: $kind:ident;)*) => {
        /// Totals of one io thread, written by that thread alone.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $help])* pub(crate) $name: Counter,)*
        }

        impl Counters {
            /// Writes the sums over all threads in the Prometheus text format.
            pub(crate) fn write_sum(all: &[std::sync::Arc<Counters>], out: &mut String) {
                $(
                    let sum: u64 = all.iter().map(|one| one.$name.get()).sum();
                    let help = concat!($($help),*).trim();
                    metric(out, concat!("tidewire_broker_", stringify!($name)), help, stringify!($kind), sum);
                )*
            }
        }
    };
}

counters! {
    /// MQTT connections accepted.
    connections_accepted_total: counter;
    /// MQTT connections open now.
    connections_open: gauge;
    /// Connections whose CONNECT is not answered yet.
    handshakes: gauge;
    /// Clients that connect and of which the session's shard was asked.
    opens_under_way: gauge;
    /// Clients that connect and wait until their session's shard may be asked.
    opens_waiting: gauge;
    /// Connections that broke the protocol.
    protocol_errors_total: counter;
    /// Connection actors that panicked.
    panics_total: counter;
    /// Connections whose client was silent too long or sent no CONNECT in time.
    timeouts_total: counter;
    /// PUBLISH packets received.
    publish_received_total: counter;
    /// PUBLISH packets sent.
    publish_sent_total: counter;
    /// PUBACK packets sent.
    puback_sent_total: counter;
    /// PUBREC packets sent.
    pubrec_sent_total: counter;
    /// Bytes read from clients.
    received_bytes_total: counter;
    /// Bytes written to clients.
    sent_bytes_total: counter;
    /// Messages handed to a connection that its full mailbox did not take.
    mailbox_dropped_total: counter;
    /// QoS 0 messages dropped because a session shard was behind.
    shard_qos0_dropped_total: counter;
    /// Messages of QoS 1 and 2 neither taken nor acknowledged because a session shard's log took
    /// nothing for long.
    shard_withheld_total: counter;
    /// QoS 0 messages dropped because the stream to another node was full.
    node_qos0_dropped_total: counter;
    /// Messages dropped because another io thread was behind.
    thread_dropped_total: counter;
    /// Messages of a connection's own queue dropped because it was full.
    queue_dropped_full_total: counter;
    /// Messages of a connection's own queue that expired.
    queue_dropped_expired_total: counter;
    /// Messages above the Maximum Packet Size of their subscriber.
    queue_dropped_too_large_total: counter;
    /// Telemetry messages of QoS 1 and 2 neither taken nor acknowledged because the log had no
    /// room.
    telemetry_withheld_total: counter;
    /// Telemetry messages of QoS 0 dropped because the log had no room.
    telemetry_qos0_dropped_total: counter;
    /// Times that a publisher was not read because messages under way to the shards filled their
    /// room.
    reads_held_total: counter;
    /// PUBLISH packets whose topic matched more of the subscription tree than may be visited.
    match_limit_total: counter;
    /// Filters of persistent sessions with QoS > 0 that overlap a stream, granted as asked.
    stream_subscriptions_allowed_total: counter;
    /// Filters of persistent sessions with QoS > 0 that overlap a stream, granted QoS 0.
    stream_subscriptions_lowered_total: counter;
    /// Filters of persistent sessions with QoS > 0 that overlap a stream, refused.
    stream_subscriptions_denied_total: counter;
    /// PUBLISH packets of QoS 2 received by streams outside class critical.
    stream_qos2_total: counter;
}

/// One number that one thread raises and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        // A single writer: no read-modify-write of a shared cache line is needed.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn sub(&self, by: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(by),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Writes one metric in the Prometheus text format.
pub(crate) fn metric(out: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let written = writeln!(
        out,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
    );
    written.expect("a String takes everything");
}

/// Writes one metric of several samples, each with its labels as they stand between the braces.
pub(crate) fn metric_by(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    samples: &[(String, u64)],
) {
    let written = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    written.expect("a String takes everything");
    for (labels, value) in samples {
        writeln!(out, "{name}{{{labels}}} {value}").expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn metrics_are_summed_over_threads() {
        let (one, two) = (Arc::new(Counters::default()), Arc::new(Counters::default()));
        one.publish_received_total.add(3);
        two.publish_received_total.add(4);
        let mut text = String::new();
        Counters::write_sum(&[one, two], &mut text);
        assert!(
            text.contains("\ntidewire_broker_publish_received_total 7\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE tidewire_broker_connections_open gauge"),
            "{text}"
        );
    }
}
