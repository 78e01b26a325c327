//! By what this node speaks with others.

use cluster::link::{PeerNet, TcpNet, TlsError, TlsIdentity, TlsNet};
use cluster_core::NodeId;

use crate::Config;

/// The network of a node: under TLS if it has certificates. Then the certificate says which node it is,
/// unless the configuration does. Blocks on the disk.
///
/// # Errors
/// Says what is wrong with the certificates.
pub(crate) fn net(config: &mut Config) -> Result<PeerNet, TlsError> {
    let Some(tls) = &config.cluster.tls else {
        let listen = config.cluster.listen.ip();
        return Ok(PeerNet::Plain(TcpNet::listening_at(listen)));
    };
    let identity = TlsIdentity::read(&tls.ca, &tls.cert, &tls.key)?;
    config.node = config.node.or(identity.node().map(|node| node.0));
    let node = NodeId(config.node.unwrap_or(1));
    Ok(PeerNet::Tls(TlsNet::new(node, identity)?))
}
