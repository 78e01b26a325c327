//! A real Kafka, killed and brought back.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidewire_xtask::kafka::{self, Cluster, Tool};

/// An empty folder below the target folder.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("what an earlier run left can be removed");
    }
    folder
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_killed_broker_comes_back_at_its_address_with_its_data_and_stops() {
    let Some(jars) = kafka::or_skip() else {
        return;
    };
    let dir = folder("one-broker");
    let properties = [
        ("log.retention.ms", "1234567"),
        // How long a restart waits for the registration of the killed process to end.
        ("broker.session.timeout.ms", "2000"),
    ];
    let mut cluster = Cluster::start(&jars, &dir, 1, &properties).unwrap();
    let address = cluster.bootstrap();
    let create = ["--create", "--topic", "t", "--partitions", "3"];
    cluster.tool(Tool::Topics, &create).unwrap();
    let first = cluster.pid(1).unwrap();

    cluster.kill(1).unwrap();

    assert!(!is_running(first));
    assert_eq!(cluster.pid(1), None);
    assert!(TcpStream::connect(&address).is_err(), "nobody listens");
    assert!(cluster.kill(1).unwrap_err().contains("does not run"));

    cluster.restart(1).unwrap();

    let second = cluster.pid(1).unwrap();
    assert_ne!(second, first);
    assert_eq!(cluster.bootstrap(), address);
    let described = cluster.tool(Tool::Topics, &["--describe"]).unwrap();
    assert!(described.contains("PartitionCount: 3"), "{described}");
    let configured = [
        "--describe",
        "--entity-type",
        "brokers",
        "--entity-name",
        "1",
        "--all",
    ];
    let configured = cluster.tool(Tool::Configs, &configured).unwrap();
    assert!(
        configured.contains("log.retention.ms=1234567"),
        "{configured}"
    );
    assert!(cluster.restart(1).unwrap_err().contains("runs already"));
    let again = cluster.tool(Tool::Topics, &create).unwrap_err();
    assert!(again.contains("already exists"), "{again}");

    cluster.stop().unwrap();

    assert!(!is_running(second));
    let log = fs::read_to_string(cluster.log(1)).unwrap();
    assert!(
        log.contains("shut down completed"),
        "stopped in order: {log}"
    );

    cluster.restart_all().unwrap();
    let third = cluster.pid(1).unwrap();
    drop(cluster);
    assert!(
        !is_running(third),
        "a dropped cluster leaves nothing behind"
    );
}

#[test]
fn a_broker_that_cannot_start_says_why() {
    let Some(jars) = kafka::or_skip() else {
        return;
    };
    let dir = folder("cannot-start");
    let properties = [("log.dirs", "/proc/none")];

    let reason = Cluster::start(&jars, &dir, 1, &properties).unwrap_err();

    assert!(reason.contains("/proc/none"), "{reason}");
}

#[test]
fn a_cluster_has_one_broker_or_three() {
    let Some(jars) = kafka::or_skip() else {
        return;
    };

    let reason = Cluster::start(&jars, &folder("two"), 2, &[]).unwrap_err();

    assert!(reason.contains("1 or 3"), "{reason}");
}

#[test]
#[ignore = "starts three brokers, which takes a minute on a busy machine"]
fn one_of_three_brokers_is_killed_and_comes_back_into_the_replicas() {
    let Some(jars) = kafka::or_skip() else {
        return;
    };
    let properties = [("broker.session.timeout.ms", "3000")];
    let mut cluster = timed("three brokers start", || {
        Cluster::start(&jars, &folder("three-brokers"), 3, &properties).unwrap()
    });
    let topic = ["--create", "--topic", "t", "--partitions", "3"];
    cluster.tool(Tool::Topics, &topic).unwrap();
    let behind = |cluster: &Cluster| {
        let describe = ["--describe", "--under-replicated-partitions"];
        cluster.tool(Tool::Topics, &describe).unwrap()
    };
    assert_eq!(behind(&cluster), "", "three replicas of each partition");

    cluster.kill(2).unwrap();
    timed("the loss is seen", || {
        until(|| behind(&cluster).lines().count() == 3);
    });
    assert!(
        cluster.pid(1).is_some() && cluster.pid(3).is_some(),
        "only one was killed"
    );

    timed("it restarts", || cluster.restart(2).unwrap());
    timed("its replicas catch up", || {
        until(|| behind(&cluster).is_empty());
    });

    cluster.kill(1).unwrap();
    cluster.kill(3).unwrap();
    timed("two restart", || cluster.restart_all().unwrap());

    timed("all stop", || cluster.stop().unwrap());
}

/// Times are shown, not checked.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    done
}

/// Each look takes Kafka's tool a second, so that no pause is needed between two.
fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(120), "waited in vain");
    }
}
