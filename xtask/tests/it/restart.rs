//! A broker that is started again while its test goes on.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use tidewire_xtask::kafka::{self, Cluster};

#[test]
fn a_restart_that_was_begun_can_be_waited_for() {
    let Some(jars) = kafka::or_skip() else {
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("begun-restart");
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    // How long the registration of a killed process keeps the next one out.
    let properties = [("broker.session.timeout.ms", "2000")];
    let mut cluster = Cluster::start(&jars, &dir, 1, &properties).unwrap();
    let address = cluster.bootstrap();
    cluster.kill(1).unwrap();

    cluster.begin_restart(1).unwrap();

    let begun = cluster.pid(1);
    assert!(begun.is_some());
    assert!(
        TcpStream::connect(&address).is_err(),
        "it returns long before a Java listens"
    );
    let twice = cluster.begin_restart(1).unwrap_err();
    assert!(twice.contains("runs already"), "{twice}");

    cluster.restart_all().unwrap();

    assert_eq!(cluster.pid(1), begun, "the same process");
    assert!(TcpStream::connect(&address).is_ok(), "ready");
}
