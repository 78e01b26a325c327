use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster_core::{NodeId, StartCount};

use super::test_nodes::*;
use super::*;

async fn start_on(listen: &str, identity: NodeIdentity) -> Node {
    start_with(TcpNet::default(), listen, identity, LinkConfig::default()).await
}

#[tokio::test]
async fn two_nodes_link_over_tcp_and_again_after_a_restart_on_the_same_port() {
    let one = start_on("127.0.0.1:0", identity(1)).await;
    let two = start_on("127.0.0.1:0", identity(2)).await;
    let (at_one, at_two) = (
        one.links.local_address().to_owned(),
        two.links.local_address().to_owned(),
    );
    one.links.set_peer(NodeId(2), &at_two);
    two.links.set_peer(NodeId(1), &at_one);
    until(|| one.is_linked(2) && two.is_linked(1)).await;
    let large = vec![7; 1 << 20];
    for lane in [Lane::Requests, Lane::Bulk] {
        let reply = one.ask(2, lane, &large[..1 << 19]).await;
        assert_eq!(reply.as_deref(), Ok(&large[..1 << 19]));
    }

    two.kill().await;
    until(|| one.peer(2).status().lanes.iter().all(|lane| !lane.dialed)).await;
    let mut next = identity(2);
    next.start = StartCount(2);
    let two = start_on(&at_two, next).await;
    two.links.set_peer(NodeId(1), &at_one);
    until(|| one.is_linked(2) && two.is_linked(1)).await;

    assert_eq!(
        one.ask(2, Lane::Control, b"again").await,
        Ok("again".into())
    );
    assert_eq!((one.violations(), two.violations()), (0, 0));
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let one = start_on("127.0.0.1:0", identity(1)).await;
    let taken = TcpNet::default().listen(one.links.local_address()).await;
    assert!(taken.is_err());
}

#[tokio::test]
async fn a_node_dials_from_the_address_that_it_listens_at() {
    let address: IpAddr = "127.0.0.2".parse().unwrap();
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = peer.local_addr().unwrap().to_string();
    let from = async |net: TcpNet| {
        let (dialed, accepted) = tokio::join!(net.connect(&at), peer.accept());
        dialed.expect("the peer listens");
        accepted.unwrap().1.ip()
    };

    assert_eq!(from(TcpNet::listening_at(address)).await, address);
    let unspecified = TcpNet::listening_at(Ipv4Addr::UNSPECIFIED.into());
    assert_eq!(from(unspecified).await, Ipv4Addr::LOCALHOST);
    // An address of the other family cannot be dialed from.
    let other = TcpNet::listening_at(Ipv6Addr::LOCALHOST.into());
    assert_eq!(from(other).await, Ipv4Addr::LOCALHOST);
}
