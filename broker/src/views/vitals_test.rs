//! A node with which nothing is wrong.

use admin::cluster::NodeReport;
use admin::health::{Disk, Vitals};
use admin::node::NodeInfo;

pub(super) fn vitals(node: u32) -> Vitals {
    Vitals {
        report: NodeReport {
            node: NodeInfo {
                node,
                version: "1.0".into(),
                mqtt: String::new(),
                admin: String::new(),
                shards: 32,
                buckets: 64,
                device_templates: Vec::new(),
                telemetry: true,
            },
            uptime_s: 1,
            wall_ms: 1_000_000,
            ready: true,
            connections: 0,
            unstored_records: None,
            resident_bytes: Some(1 << 20),
            restarts: 0,
            last_restart: None,
        },
        has_lease: true,
        memory_limit_bytes: 1 << 30,
        led: Vec::new(),
        stuck: Vec::new(),
        disk_full: false,
        disk: Some(Disk {
            free_bytes: 50 << 30,
            total_bytes: 100 << 30,
        }),
        files_limit: Some(1 << 20),
        bridge: Vec::new(),
        spooled: 0,
        unread: Vec::new(),
        unpulled: Vec::new(),
        buckets_with_rows: 0,
    }
}
