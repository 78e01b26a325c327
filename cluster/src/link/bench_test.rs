//! How fast a link is, on one machine. Run by hand:
//! `cargo test -p tidewire-cluster --lib link::bench -- --ignored --nocapture`.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use cluster_core::NodeId;

use super::test_nodes::*;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn requests_over_loopback() {
    let config = LinkConfig::default();
    let one = start_with(TcpNet::default(), "127.0.0.1:0", identity(1), config).await;
    let two = start_with(TcpNet::default(), "127.0.0.1:0", identity(2), config).await;
    one.links.set_peer(NodeId(2), two.links.local_address());
    two.links.set_peer(NodeId(1), one.links.local_address());
    until(|| one.is_linked(2) && two.is_linked(1)).await;

    two.service.serve(Serve::Forget);
    println!("two nodes in one process, TCP over loopback, each request echoed");
    for (lane, bytes, in_flight, count) in [
        (Lane::Control, 64, 1, 20_000),
        (Lane::Requests, 256, 1, 20_000),
        (Lane::Requests, 256, 64, 200_000),
        (Lane::Requests, 256, 1_000, 500_000),
        (Lane::Requests, 64 << 10, 64, 20_000),
        (Lane::Bulk, 1 << 19, 2, 2_000),
    ] {
        measure(&one, lane, bytes, in_flight, count).await;
    }
}

async fn measure(node: &Node, lane: Lane, bytes: usize, in_flight: usize, count: usize) {
    let peer = node.peer(2);
    let payload = Bytes::from(vec![7; bytes]);
    let turns = || node.links.counters().lane(lane).turns_total.get();
    let (began, before) = (Instant::now(), turns());
    let mut open = VecDeque::new();
    let mut slowest = std::time::Duration::ZERO;
    for _ in 0..count {
        if open.len() == in_flight {
            let (sent, pending): (Instant, PendingReply) = open.pop_front().expect("not empty");
            pending.wait().await.expect("echoed");
            slowest = slowest.max(sent.elapsed());
        }
        let mut request = ask(&[]);
        request.payload = payload.clone();
        request.reply_bytes_max = bytes as u32;
        let sent = Instant::now();
        open.push_back((sent, peer.send(lane, request).expect("room")));
    }
    for (_, pending) in open {
        pending.wait().await.expect("echoed");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{lane:8} {bytes:7} B, {in_flight:5} in flight: {:9.0}/s, {:6.1} MB/s each way, {:5.1} frames a write, slowest {:.1} ms",
        count as f64 / seconds,
        (count * bytes) as f64 / seconds / 1e6,
        count as f64 / (turns() - before) as f64,
        slowest.as_secs_f64() * 1e3,
    );
}
