//! A network of the test's own, in which what goes between two nodes can be cut, either way.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use xtask::skip::{outside, skip};

use super::nodes::{Cluster, NODES};

/// Says that the process runs in a network namespace of its own.
const INSIDE: &str = "TIDEWIRE_TEST_NETWORK";
/// Under which tests without one are counted.
const GROUP: &str = "networks";
/// What is needed beside the kernel, and the Debian packages that bring it.
const PROGRAMS: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
];
/// How a process gets a network namespace: as root, or as a user who is root in a namespace.
const WAYS: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];
/// Where packets that came are dropped. What is sent is not: its sender would be told.
const TABLE: &str = "\
add table inet tidewire
add chain inet tidewire links { type filter hook input priority 0; }
";

/// Runs what a test function does in a network namespace of its own, or reports it as skipped. The
/// namespace lasts as long as its processes: nothing is left behind.
pub(super) fn in_own_network<T: Fn()>(_function: T, test: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    for (program, package) in PROGRAMS {
        if outside(GROUP, program, package).is_none() {
            return;
        }
    }
    let Some(way) = WAYS.into_iter().find(|way| is_possible(way)) else {
        return skip(GROUP, "no network namespaces with nftables here");
    };
    // Threads have the names of tests only where there are several.
    let (_crate, name) = std::any::type_name::<T>()
        .split_once("::")
        .expect("a function in a module");
    let output = Command::new("unshare")
        .args(way)
        .args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--include-ignored", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("it was found before");
    // Indented: the lines of its runner are none of this one's.
    for text in [&output.stdout, &output.stderr] {
        for line in String::from_utf8_lossy(text).lines() {
            eprintln!("  {line}");
        }
    }
    let has_run = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(
        output.status.success() && has_run,
        "in a network of its own: {}",
        output.status
    );
}

fn is_possible(way: &[&str]) -> bool {
    let script = "ip link set lo up && nft add table inet tidewire";
    let tried = Command::new("unshare")
        .args(way)
        .args(["sh", "-c", script])
        .stdin(Stdio::null())
        .output();
    tried.is_ok_and(|output| output.status.success())
}

/// The address from which a node dials and at which others dial it: one for each, so that packets say
/// between whom they go.
pub(super) fn address(at: usize) -> IpAddr {
    let last = u8::try_from(at + 1).expect("few nodes");
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What lies between the nodes.
pub(super) struct Network {
    /// Of the nodes, for each other.
    nodes: [SocketAddr; NODES],
}

impl Network {
    /// The network between the nodes of a cluster that was made for one of its own.
    pub(super) fn of(cluster: &Cluster) -> Self {
        nft(TABLE);
        Self {
            nodes: cluster.places.each_ref().map(|place| place.cluster),
        }
    }

    /// Drops what goes from one node to another from now on: of the connections that it dialed, and
    /// of those that it was dialed on.
    pub(super) fn cut_way(&self, from: usize, to: usize) {
        let (sender, receiver) = (self.nodes[from], self.nodes[to]);
        let way = format!(
            "add rule inet tidewire links ip saddr {} ip daddr {} tcp",
            sender.ip(),
            receiver.ip()
        );
        nft(&format!(
            "{way} dport {} counter drop\n{way} sport {} counter drop\n",
            receiver.port(),
            sender.port()
        ));
    }

    /// Drops what goes between two nodes from now on.
    pub(super) fn cut(&self, one: usize, other: usize) {
        self.cut_way(one, other);
        self.cut_way(other, one);
    }

    /// Cuts a node off from all others.
    pub(super) fn cut_off(&self, node: usize) {
        for other in others(node) {
            self.cut(node, other);
        }
    }

    /// Lets everything pass again.
    pub(super) fn heal(&self) {
        assert!(
            dropped() > 0,
            "what was cut was never tried: the packets do not say between whom they go"
        );
        nft("flush chain inet tidewire links\n");
    }
}

/// The other nodes.
pub(super) fn others(node: usize) -> impl Iterator<Item = usize> {
    (0..NODES).filter(move |other| *other != node)
}

/// Packets that the rules have dropped.
fn dropped() -> u64 {
    let listed = Command::new("nft")
        .args(["list", "chain", "inet", "tidewire", "links"])
        .output()
        .expect("nft was found before");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let counts = text.split("counter packets ").skip(1);
    counts
        .filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn nft(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft was found before");
    let mut stdin = child.stdin.take().expect("it was piped");
    stdin.write_all(script.as_bytes()).expect("nft reads");
    drop(stdin);
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "nft: {status}: {script}");
}
