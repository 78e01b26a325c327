//! `tidewire serve`.

use broker::{Config, ConfigError, Node, StartError};

use crate::arguments::Serve;
use crate::{exit, fail};

/// Serves until SIGTERM or SIGINT; the exit code.
pub(crate) fn run(arguments: &Serve) -> u8 {
    let config = match config(arguments) {
        Ok(config) => config,
        Err(error) => return fail(exit::USAGE, &error),
    };
    if let Err(error) = config.validate() {
        return fail(exit::USAGE, &error);
    }
    if arguments.check {
        print!("{}", config.to_toml());
        return 0;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(runtime::usable_cores().min(4))
        .thread_name("control")
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => fail(exit::FAILED, &format!("cannot start the runtime: {error}")),
    }
}

/// The file, and over it the flags.
fn config(arguments: &Serve) -> Result<Config, ConfigError> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    fn set<T: Clone>(to: &mut T, from: Option<&T>) {
        if let Some(value) = from {
            *to = value.clone();
        }
    }
    set(&mut config.data, arguments.data.as_ref());
    set(&mut config.mqtt.listen, arguments.mqtt.as_ref());
    set(&mut config.admin.listen, arguments.admin.as_ref());
    set(&mut config.cluster.listen, arguments.cluster.as_ref());
    set(&mut config.cluster.shards, arguments.shards.as_ref());
    config.node = arguments.node.or(config.node);
    config.kafka.bootstrap = arguments.kafka.clone().or(config.kafka.bootstrap);
    config.no_telemetry |= arguments.no_telemetry;
    config.allow_anonymous |= arguments.allow_anonymous;
    if !arguments.join.is_empty() {
        config.cluster.join.clone_from(&arguments.join);
    }
    Ok(config)
}

async fn serve(config: Config) -> u8 {
    let cluster = config.cluster.listen;
    let kafka = config.kafka.bootstrap.clone();
    let node = match Node::start(config).await {
        Ok(node) => node,
        Err(error) => return refused(&error),
    };
    tracing::info!(node = node.number, mqtt = %node.mqtt, admin = %node.admin, "serving");
    tracing::info!(%cluster, "the cluster is not built yet: its address is not bound");
    if let Some(kafka) = kafka {
        tracing::info!(%kafka, "telemetry goes to Kafka");
    } else if node.telemetry() {
        tracing::info!(
            "one node and no Kafka: killing it loses nothing acknowledged, losing its disk does"
        );
    }
    let signal = match runtime::stop_signal().await {
        Ok(signal) => signal,
        Err(error) => return fail(exit::FAILED, &format!("cannot wait for signals: {error}")),
    };
    tracing::info!(?signal, "stopping");
    node.stop().await;
    tracing::info!("stopped");
    0
}

fn refused(error: &StartError) -> u8 {
    fail(
        if error.is_usage() {
            exit::USAGE
        } else {
            exit::FAILED
        },
        error,
    )
}
