//! `tidewire serve`.

use std::pin::pin;
use std::sync::Arc;

use broker::{Config, ConfigError, ControlKind, Environment, Fatal, Node, StartError};
use defects::Load;
use tokio::sync::Notify;

use crate::arguments::Serve;
use crate::{exit, fail};

/// Serves until SIGTERM or SIGINT; the exit code.
pub(crate) fn run(arguments: &Serve) -> u8 {
    if let Err(error) = carry_defects() {
        return fail(exit::USAGE, &error);
    }
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

/// Takes up what the environment says is to be broken in this process; a clean build refuses that.
fn carry_defects() -> Result<(), defects::Error> {
    let said = |name| std::env::var(name).unwrap_or_default();
    let load = Load::parse(&said("TIDEWIRE_DEFECT"), &said("TIDEWIRE_STRAIN"))?;
    if !load.is_empty() {
        tracing::warn!(?load, "this node breaks promises on purpose");
    }
    defects::carry(load)
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

/// Serves until a signal comes. When meta has ended the node's epoch, all its connections are closed
/// and it begins anew, under another (SEMANTICS, Cluster).
async fn serve(config: Config) -> u8 {
    let mut signal = pin!(runtime::stop_signal());
    loop {
        let ended = Arc::new(Notify::new());
        let environment = environment(&ended);
        let started = tokio::select! {
            started = Node::start_in(config.clone(), environment) => started,
            signal = &mut signal => return stopped_early(signal),
        };
        let node = match started {
            Ok(node) => node,
            Err(error) if error.is_epoch_ended() => {
                tracing::warn!(%error, "the node begins another epoch");
                continue;
            }
            Err(error) => return refused(&error),
        };
        say_what_is_served(&config, &node);
        let signal = tokio::select! {
            signal = &mut signal => signal,
            () = ended.notified() => {
                node.abandon().await;
                tracing::warn!("the epoch of this node has ended: it begins another");
                continue;
            }
        };
        let signal = match signal {
            Ok(signal) => signal,
            Err(error) => return fail(exit::FAILED, &format!("cannot wait for signals: {error}")),
        };
        tracing::info!(?signal, "stopping");
        node.stop().await;
        tracing::info!("stopped");
        return 0;
    }
}

/// Tells the end of the epoch, and lets everything else that is fatal end the process.
fn environment(ended: &Arc<Notify>) -> Environment {
    let environment = Environment::default();
    let (ended, end_process) = (Arc::clone(ended), Arc::clone(&environment.on_fatal));
    let on_fatal = move |fatal| match fatal {
        Fatal::EpochEnded(_) => ended.notify_one(),
        fatal => end_process(fatal),
    };
    Environment {
        on_fatal: Arc::new(on_fatal),
        // The process is this node's alone.
        control: ControlKind::Distributed,
        ..environment
    }
}

/// A start that is cut off leaves the folder as a crash would.
fn stopped_early<S: std::fmt::Debug>(signal: std::io::Result<S>) -> u8 {
    match signal {
        Ok(signal) => {
            tracing::info!(?signal, "stopped before it served");
            0
        }
        Err(error) => fail(exit::FAILED, &format!("cannot wait for signals: {error}")),
    }
}

fn say_what_is_served(config: &Config, node: &Node) {
    tracing::info!(
        node = node.number,
        mqtt = %node.mqtt,
        admin = %node.admin,
        cluster = node.cluster,
        "serving"
    );
    if let Some(kafka) = &config.kafka.bootstrap {
        tracing::info!(kafka, "telemetry goes to Kafka");
    } else if node.telemetry() {
        tracing::info!(
            "no Kafka: killing this node loses no acknowledged telemetry, losing its disk does"
        );
    }
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
