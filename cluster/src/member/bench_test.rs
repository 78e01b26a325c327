//! What membership costs, on one machine. Run by hand:
//! `cargo test --release -p tidewire-cluster --lib member::bench -- --ignored --nocapture`.

use std::time::Duration;

use super::test_cluster::Cluster;

/// Processor time of this process, in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this system has one");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}

#[tokio::test]
#[ignore = "a measurement"]
async fn three_idle_nodes_of_34_groups() {
    let began = tokio::time::Instant::now();
    let mut cluster = Cluster::found_in_real_time(32).await;
    cluster.join(2).await;
    cluster.join(3).await;
    cluster.settle().await;
    println!(
        "three nodes of 34 groups at rest after {:?}",
        began.elapsed()
    );
    // Groups that were in use fall asleep, and leaders return.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let seconds = 20;
    let before = cpu_ticks();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent = cpu_ticks() - before;
    let percent = spent as f64 / seconds as f64;
    println!("idle: {percent:.2} % of a core for all three, links in memory and groups included");
    cluster.stop().await;
}
