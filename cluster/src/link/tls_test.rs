use bytes::Bytes;
use cluster_core::NodeId;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::AsyncWriteExt;

use super::test_nodes::*;
use super::*;

/// An authority of a test's cluster.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signs").der().to_vec();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            certificate,
        }
    }

    /// A certificate for names, and its key.
    fn identity(&self, names: &[String]) -> TlsIdentity {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("DNS names");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        TlsIdentity {
            authorities: vec![self.certificate.clone()],
            chain: vec![certificate.der().to_vec()],
            key: key.serialize_der(),
        }
    }

    fn net(&self, node: u32) -> TlsNet {
        let names = [CLUSTER_NAME.to_owned(), node_name(NodeId(node))];
        TlsNet::new(NodeId(node), self.identity(&names)).expect("a good identity")
    }
}

async fn start_on(net: TlsNet, node: u32) -> Node {
    start_with(net, "127.0.0.1:0", identity(node), LinkConfig::default()).await
}

#[tokio::test]
async fn members_link_over_tls() {
    let authority = Authority::new();
    let one = start_on(authority.net(1), 1).await;
    let two = start_on(authority.net(2), 2).await;
    one.links.set_peer(NodeId(2), two.links.local_address());
    two.links.set_peer(NodeId(1), one.links.local_address());
    until(|| one.is_linked(2) && two.is_linked(1)).await;

    let large = vec![7; 1 << 19];
    for lane in [Lane::Requests, Lane::Bulk] {
        let reply = one.ask(2, lane, &large).await;
        assert_eq!(reply, Ok(Bytes::from(large.clone())));
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_member_that_says_the_number_of_another_is_refused() {
    let authority = Authority::new();
    let one = start_on(authority.net(1), 1).await;
    // The certificate of node 3, the greeting of node 2.
    let two = start_on(authority.net(3), 2).await;
    two.links.set_peer(NodeId(1), one.links.local_address());

    until(|| !two.refused(RefusalCode::Certificate).is_empty()).await;

    let refusal = one.refused(RefusalCode::Certificate)[0];
    assert_eq!(
        refusal.to_string(),
        "node number 2 comes with the certificate of node 3"
    );
}

#[tokio::test]
async fn whoever_has_no_certificate_of_the_authority_gets_no_greeting() {
    let authority = Authority::new();
    let one = start_on(authority.net(1), 1).await;
    let at_one = one.links.local_address().to_owned();
    let foreign = start_on(Authority::new().net(2), 2).await;
    let plain = start_with(
        TcpNet::default(),
        "127.0.0.1:0",
        identity(3),
        LinkConfig::default(),
    )
    .await;
    foreign.links.set_peer(NodeId(1), &at_one);
    plain.links.set_peer(NodeId(1), &at_one);
    let mut garbage = TcpNet::default().connect(&at_one).await.expect("listens");
    garbage.write_all(&[0xff; 100]).await.expect("writes");

    let tried = |node: &Node| node.links.counters().dial_failures_total.get() >= 6;
    until(|| tried(&foreign) && tried(&plain)).await;

    assert_eq!(one.links.counters().accepted_total.get(), 0);
    // And the listener goes on.
    let four = start_on(authority.net(4), 4).await;
    four.links.set_peer(NodeId(1), &at_one);
    until(|| four.peer(1).status().lanes[0].dialed).await;
    assert_eq!(four.ask(1, Lane::Control, b"well").await, Ok("well".into()));
}

#[test]
fn a_certificate_that_does_not_name_the_node_is_refused_at_the_start() {
    let authority = Authority::new();
    let names = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let error = TlsNet::new(NodeId(1), authority.identity(&names));
        error.err().map(|error| error.to_string())
    };
    let expected = "not node-1.cluster.tidewire";

    assert_eq!(names(&[CLUSTER_NAME, "node-1.cluster.tidewire"]), None);
    assert_eq!(
        names(&[CLUSTER_NAME, "node-2.cluster.tidewire"]),
        Some(format!(
            "the certificate names node-2.cluster.tidewire, {expected}"
        ))
    );
    for bad in [
        &[CLUSTER_NAME][..],
        &["node-01.cluster.tidewire"],
        &["node-1.cluster.tidewire", "node-2.cluster.tidewire"],
        &["node-1xcluster.tidewire"],
        &["node-99999999999.cluster.tidewire"],
    ] {
        let words = Some(format!("the certificate names no node, {expected}"));
        assert_eq!(names(bad), words, "{bad:?}");
    }
}
