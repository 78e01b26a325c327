//! The nodes of a demo together: one founds the cluster, the others join it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::node::{Launch, Node};
use super::view::{View, is_whole};

/// Time from the start of the last node until all are one cluster.
const WHOLE_DEADLINE: Duration = Duration::from_secs(90);

/// Time between two looks at a cluster that is becoming whole.
const LOOK: Duration = Duration::from_millis(100);

/// Are the nodes that run; dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Nodes {
    launches: Vec<Launch>,
    running: Vec<Option<Node>>,
}

impl Nodes {
    /// Starts nodes on new folders, the first alone and then the others at once, and waits until
    /// all are one cluster.
    pub(crate) async fn found(launches: Vec<Launch>) -> Result<Self, Error> {
        let mut nodes = Self::none(launches);
        nodes.spawn(0)?;
        nodes.await_ready(0).await?;
        nodes.start_missing().await?;
        nodes.await_whole().await?;
        Ok(nodes)
    }

    /// Starts all nodes of ended ones at once, and waits until they serve.
    pub(crate) async fn again(launches: Vec<Launch>) -> Result<Self, Error> {
        let mut nodes = Self::none(launches);
        nodes.start_missing().await?;
        Ok(nodes)
    }

    fn none(launches: Vec<Launch>) -> Self {
        let running = launches.iter().map(|_| None).collect();
        Self { launches, running }
    }

    async fn start_missing(&mut self) -> Result<(), Error> {
        let missing: Vec<usize> = (0..self.launches.len())
            .filter(|at| self.running[*at].is_none())
            .collect();
        for at in &missing {
            self.spawn(*at)?;
        }
        for at in missing {
            self.await_ready(at).await?;
        }
        Ok(())
    }

    async fn await_ready(&mut self, at: usize) -> Result<(), Error> {
        let node = self.running[at].as_mut().expect("it was started");
        node.wait_until_ready().await
    }

    /// Waits until each node says that all serve and every group is led and placed.
    async fn await_whole(&mut self) -> Result<(), Error> {
        let count = self.launches.len();
        if count == 1 {
            return Ok(());
        }
        let view = View::of(self.admins());
        let deadline = Instant::now() + WHOLE_DEADLINE;
        loop {
            let statuses = view.statuses();
            let is_whole =
                |status: &Option<_>| status.as_ref().is_some_and(|one| is_whole(one, count));
            if statuses.iter().all(is_whole) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::Failed(format!(
                    "the {count} nodes are not one cluster after {WHOLE_DEADLINE:?}: {}",
                    view.standing()
                )));
            }
            tokio::select! {
                error = self.ended_by_itself() => return Err(error),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    pub(crate) fn launches(&self) -> &[Launch] {
        &self.launches
    }

    pub(crate) fn mqtt(&self) -> Vec<SocketAddr> {
        self.launches.iter().map(|one| one.mqtt).collect()
    }

    pub(crate) fn admins(&self) -> Vec<SocketAddr> {
        self.launches.iter().map(|one| one.admin).collect()
    }

    /// Returns the nodes that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.running.iter().flatten()
    }

    /// Returns the node at this place, if it runs.
    pub(crate) fn node(&self, at: usize) -> Option<&Node> {
        self.running[at].as_ref()
    }

    /// Starts the node at this place and waits for nothing.
    pub(crate) fn spawn(&mut self, at: usize) -> Result<(), Error> {
        self.running[at] = Some(self.launches[at].spawn()?);
        Ok(())
    }

    /// Kills the node at this place with SIGKILL, if it runs.
    pub(crate) async fn kill(&mut self, at: usize) -> Result<(), Error> {
        match self.running[at].take() {
            Some(node) => node.kill().await,
            None => Ok(()),
        }
    }

    /// Waits for an end of any node that nobody asked for, and returns it as an error. Cancel-safe.
    pub(crate) async fn ended_by_itself(&mut self) -> Error {
        let running = self.running.iter_mut().flatten();
        let mut ends: Vec<Pin<Box<_>>> = running
            .map(|node| Box::pin(node.ended_by_itself()))
            .collect();
        poll_fn(|context| {
            let mut ends = ends.iter_mut().map(|end| end.as_mut().poll(context));
            ends.find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await
    }

    /// Stops all nodes with SIGTERM at once and waits for their ends.
    ///
    /// # Errors
    /// The first [`Error::Failed`]; all are stopped or killed.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        let running = self.running.iter_mut().filter_map(Option::take);
        // Of one that has ended by itself that was told already.
        let running: Vec<Node> = running.filter(|node| node.pid().is_some()).collect();
        // Told together: the last one alone has no quorum to end its epoch with.
        let told: Vec<Result<(), Error>> = running.iter().map(Node::terminate).collect();
        let mut first = told.into_iter().collect::<Result<(), Error>>();
        for node in running {
            let stopped = node.await_stop().await;
            first = first.and(stopped);
        }
        first
    }

    /// Stops the nodes on the way out with an error, which stays the one that is told.
    pub(crate) async fn stop_after(self, error: &Error) {
        if let Err(second) = self.stop().await {
            eprintln!("after the error \"{error}\": {second}");
        }
    }
}
