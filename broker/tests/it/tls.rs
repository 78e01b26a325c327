//! Nodes that know each other by certificates.

use std::fs;
use std::path::Path;

use cluster::link::{CLUSTER_NAME, node_name};
use cluster_core::NodeId;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tidewire_broker::config::ClusterTls;
use tidewire_broker::{Config, Node};

use crate::harness::{config, soon, start};

/// An authority, and the folder with the files of its nodes.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signs");
        let folder = TempDir::new().expect("a scratch folder");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("writable");
        Self {
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    /// The files of a node.
    fn identity(&self, node: u32) -> ClusterTls {
        let key = KeyPair::generate().expect("a key");
        let names = [CLUSTER_NAME.to_owned(), node_name(NodeId(node))];
        let params = CertificateParams::new(names).expect("DNS names");
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        let path = |name: &str| self.folder.path().join(name);
        let (cert, private) = (path(&format!("{node}.pem")), path(&format!("{node}.key")));
        fs::write(&cert, certificate.pem()).expect("writable");
        fs::write(&private, key.serialize_pem()).expect("writable");
        ClusterTls {
            ca: path("ca.pem"),
            cert,
            key: private,
        }
    }

    fn config(&self, node: u32) -> Config {
        let mut config = config();
        config.cluster.tls = Some(self.identity(node));
        config
    }
}

async fn refused(mut config: Config) -> String {
    let folder = TempDir::new().expect("a scratch folder");
    config.data = folder.path().join("data");
    let error = Node::start(config).await.err().expect("it is refused");
    assert!(error.is_usage(), "{error}");
    assert!(!folder.path().join("data").exists(), "nothing was begun");
    error.to_string()
}

fn replace(path: &Path, text: &str) {
    fs::write(path, text).expect("writable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_over_tls_as_its_certificate_says() {
    let authority = Authority::new();
    let founder = start(authority.config(1)).await;
    let mut joining = authority.config(7);
    joining.cluster.join = vec![founder.node.cluster.clone()];

    let joined = soon("the second node", start(joining)).await;

    assert_eq!(founder.node.number, 1);
    assert_eq!(joined.node.number, 7);
    joined.node.stop().await;
    founder.node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_certificates_is_said_before_anything_begins() {
    let authority = Authority::new();
    let mut other_number = authority.config(2);
    other_number.node = Some(3);
    assert_eq!(
        refused(other_number).await,
        "cluster.tls: the certificate names node-2.cluster.tidewire, not node-3.cluster.tidewire"
    );

    let tls = authority.identity(4);
    let mut config = config();
    config.cluster.tls = Some(tls.clone());
    fs::remove_file(&tls.key).expect("it is there");
    let why = refused(config.clone()).await;
    let named = format!("cluster.tls: {}: ", tls.key.display());
    assert!(why.starts_with(&named) && !why.contains('\n'), "{why}");

    replace(&tls.key, "no key at all");
    let why = refused(config.clone()).await;
    assert!(why.starts_with(&named) && !why.contains('\n'), "{why}");

    // The key of another certificate.
    let other = fs::read_to_string(authority.identity(5).key).expect("it is there");
    replace(&tls.key, &other);
    let why = refused(config).await;
    assert!(
        why.starts_with("cluster.tls: ") && !why.contains('\n'),
        "{why}"
    );
}
