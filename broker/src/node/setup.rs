//! What a node is made of before its actors run: sockets, the telemetry line, io threads.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bridge::{Streams, Telemetry};
use mqtt::Templates;
use runtime::{IoThread, Restarts};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::StartError;
use crate::Config;
use crate::buckets::Buckets;
use crate::counters::Counters;
use crate::data_folder::Identity;
use crate::environment::Environment;
use crate::io::{INBOX_BATCHES_LIMIT, IoMessage, Shared, serve};
use crate::listener;

/// The device-owned templates of the cluster, which the configuration says from now on.
pub(super) fn founded_templates(config: &mut Config, identity: &Identity) -> Templates {
    let (cluster, founded) = (&mut config.cluster, &identity.device_templates);
    match &cluster.device_templates {
        // Only who joined may have asked for others: a founder would have been refused.
        Some(asked) if asked != founded => tracing::warn!(
            ?asked,
            ?founded,
            "cluster.device_templates has no effect: the cluster was founded with others"
        ),
        _ => tracing::info!(templates = ?founded, "device-owned templates of the cluster"),
    }
    cluster.device_templates = Some(founded.clone());
    identity.templates()
}

pub(super) fn origins(config: &Config) -> Box<[Mutex<session::Origins>]> {
    let limits = config.shard();
    let rows = limits.origins / usize::from(config.cluster.shards);
    let one = || Mutex::new(session::Origins::new(rows, limits.origin_s));
    std::iter::repeat_with(one)
        .take(usize::from(config.cluster.shards))
        .collect()
}

pub(super) fn bind(
    key: &'static str,
    flag: &'static str,
    address: SocketAddr,
    backlog: u32,
) -> Result<TcpListener, StartError> {
    listener::bind(address, backlog).map_err(|error| StartError::Bind {
        key,
        flag,
        address,
        error,
    })
}

pub(super) fn address(listener: &TcpListener) -> SocketAddr {
    listener
        .local_addr()
        .expect("a bound socket has an address")
}

pub(super) async fn open_telemetry(
    config: &Config,
    streams: &Streams,
    number: u32,
    buckets: &Arc<Buckets>,
    environment: &Environment,
    restarts: &Restarts,
) -> Result<Telemetry, bridge::OpenError> {
    let Environment {
        fs,
        clock,
        on_fatal,
        ..
    } = environment.clone();
    let on_fatal = Arc::new(move |fatal: bridge::Fatal| on_fatal(fatal.into()));
    let line = bridge::Config {
        restarts: restarts.clone(),
        ..config.line(number, streams)
    };
    let cluster = Arc::clone(buckets) as Arc<dyn bridge::Cluster>;
    Telemetry::open_in(cluster, &config.data, fs, clock, line, on_fatal).await
}

/// The io threads, each with what lets it begin.
pub(super) type Started = (Vec<IoThread<IoMessage>>, Vec<oneshot::Sender<Arc<Shared>>>);

pub(super) fn start_threads(counters: &[Arc<Counters>]) -> Result<Started, StartError> {
    let start = |(index, counters): (usize, &Arc<Counters>)| {
        let counters = Arc::clone(counters);
        let (begin, shared) = oneshot::channel();
        IoThread::start(index, INBOX_BATCHES_LIMIT, move |inbox| {
            serve(index, shared, counters, inbox)
        })
        .map(|thread| (thread, begin))
        .map_err(|error| StartError::Spawn {
            what: "an io thread",
            error: error.to_string(),
        })
    };
    let started: Result<Vec<_>, _> = counters.iter().enumerate().map(start).collect();
    Ok(started?.into_iter().unzip())
}
