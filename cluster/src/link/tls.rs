//! The network as TLS over TCP, where both sides show a certificate that names a node.
//!
//! A certificate of the cluster's authority carries two DNS names: [`CLUSTER_NAME`], by which every
//! member is known to be one, and `node-<number>.cluster.tidewire`, which says which. The chain is
//! checked by rustls, the number by the handshake: who says another number is refused.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cluster_core::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use webpki::EndEntityCert;

use super::net::{ByteStream, Listen, Net};
use super::tcp::{TcpListening, TcpNet};

/// The DNS name that every member's certificate carries.
pub const CLUSTER_NAME: &str = "cluster.tidewire";

/// What a node shows to its peers, and whom it believes.
#[derive(Debug)]
pub struct TlsIdentity {
    /// The authorities whose certificates are believed, in DER.
    pub authorities: Vec<Vec<u8>>,
    /// The node's certificate, and those between it and an authority, in DER.
    pub chain: Vec<Vec<u8>>,
    /// The node's private key: PKCS #8, PKCS #1 or SEC1, in DER.
    pub key: Vec<u8>,
}

impl TlsIdentity {
    /// Reads PEM files: authorities, the node's certificate followed by those between it and an
    /// authority, and its key. Blocks on the disk.
    ///
    /// # Errors
    /// Names the file that cannot be read, or holds no such thing.
    pub fn read(authorities: &Path, chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let bad = |path: &Path, error: pem::Error| TlsError::File {
            path: path.to_owned(),
            why: error.to_string(),
        };
        let certificates = |path: &Path| {
            let read = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, error))?;
            let ders = read.map(|der| Ok(der.map_err(|error| bad(path, error))?.to_vec()));
            let ders: Vec<Vec<u8>> = ders.collect::<Result<_, TlsError>>()?;
            match ders.is_empty() {
                true => Err(bad(path, pem::Error::NoItemsFound)),
                false => Ok(ders),
            }
        };
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
        Ok(Self {
            authorities: certificates(authorities)?,
            chain: certificates(chain)?,
            key: private.secret_der().to_vec(),
        })
    }

    /// The node that the certificate names, if it names exactly one.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        named(&[CertificateDer::from(&self.chain.first()?[..])])
    }
}

/// Why a node cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or does not hold what it is to hold.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key is of no form that is known.
    #[error("the private key cannot be read: {0}")]
    Key(&'static str),
    /// An authority, the certificate or the key is not good, or they do not belong together.
    #[error("the certificates cannot be used: {0}")]
    Certificates(String),
    /// The certificate does not name the node.
    #[error("the certificate names {found}, not {expected}")]
    Name {
        /// What it names.
        found: String,
        /// What it must name.
        expected: String,
    },
}

/// TCP under TLS 1.3 with certificates on both sides.
#[derive(Clone)]
pub struct TlsNet {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

/// A listening socket.
pub struct TlsListening {
    listener: TcpListening,
    acceptor: TlsAcceptor,
}

/// A connection.
pub struct TlsLinkStream {
    stream: TlsStream<TcpStream>,
    certified: NodeId,
}

/// A connection whose certificates are being exchanged.
pub type TlsOpening = Pin<Box<dyn Future<Output = io::Result<TlsLinkStream>> + Send>>;

/// The DNS name of a node's certificate.
pub fn node_name(node: NodeId) -> String {
    format!("node-{node}.{CLUSTER_NAME}")
}

impl TlsNet {
    /// The network of node `node`.
    ///
    /// # Errors
    /// Says which part of the identity is not good; peers would refuse it.
    pub fn new(node: NodeId, identity: TlsIdentity) -> Result<Self, TlsError> {
        let bad = |error: &dyn std::fmt::Display| TlsError::Certificates(error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in identity.authorities {
            roots.add(authority.into()).map_err(|error| bad(&error))?;
        }
        let roots = Arc::new(roots);
        let chain: Vec<CertificateDer<'static>> =
            identity.chain.into_iter().map(Into::into).collect();
        let key = PrivateKeyDer::try_from(identity.key).map_err(TlsError::Key)?;
        let named = named(&chain);
        if named != Some(node) {
            let found = named.map_or_else(|| "no node".to_owned(), node_name);
            let expected = node_name(node);
            return Err(TlsError::Name { found, expected });
        }
        // Named here, so that no other provider in the process is asked for.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| bad(&error))?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| bad(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| bad(&error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| bad(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| bad(&error))?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            acceptor: TlsAcceptor::from(Arc::new(server)),
        })
    }
}

impl Net for TlsNet {
    type Stream = TlsLinkStream;
    type Listener = TlsListening;

    async fn connect(&self, address: &str) -> io::Result<TlsLinkStream> {
        let stream = TcpNet::default().connect(address).await?;
        let name = ServerName::try_from(CLUSTER_NAME).expect("a DNS name");
        let stream = self.connector.connect(name, stream).await?;
        TlsLinkStream::new(stream.into())
    }

    async fn listen(&self, address: &str) -> io::Result<TlsListening> {
        Ok(TlsListening {
            listener: TcpNet::default().listen(address).await?,
            acceptor: self.acceptor.clone(),
        })
    }
}

impl Listen for TlsListening {
    type Stream = TlsLinkStream;
    type Opening = TlsOpening;

    async fn accept(&mut self) -> io::Result<(TlsOpening, String)> {
        let (opening, from) = self.listener.accept().await?;
        let acceptor = self.acceptor.clone();
        let opening = async move {
            let stream = acceptor.accept(opening.await?).await?;
            TlsLinkStream::new(stream.into())
        };
        Ok((Box::pin(opening), from))
    }

    fn local_address(&self) -> io::Result<String> {
        self.listener.local_address()
    }
}

impl TlsLinkStream {
    fn new(stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let (_, connection) = stream.get_ref();
        let chain = connection.peer_certificates().unwrap_or_default();
        let nameless = || {
            let error = rustls::Error::General("the peer's certificate names no node".to_owned());
            io::Error::new(io::ErrorKind::InvalidData, error)
        };
        let certified = named(chain).ok_or_else(nameless)?;
        Ok(Self { stream, certified })
    }
}

impl ByteStream for TlsLinkStream {
    fn certified(&self) -> Option<NodeId> {
        Some(self.certified)
    }
}

/// The node that a chain's first certificate names, if it names exactly one.
fn named(chain: &[CertificateDer<'_>]) -> Option<NodeId> {
    let certificate = EndEntityCert::try_from(chain.first()?).ok()?;
    let mut nodes = certificate.valid_dns_names().filter_map(node_of_name);
    let node = nodes.next()?;
    nodes.next().is_none().then_some(node)
}

/// The node of a name, if it is written as [`node_name`] writes it.
fn node_of_name(name: &str) -> Option<NodeId> {
    let number = name.strip_prefix("node-")?;
    let number = number.strip_suffix(CLUSTER_NAME)?.strip_suffix('.')?;
    let node = NodeId(number.parse().ok()?);
    (node_name(node) == name).then_some(node)
}

impl AsyncRead for TlsLinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for TlsLinkStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
