//! `cargo xtask kafka`: a cluster that outlives the command which started it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Jars;
use super::cluster::{READY_WITHIN, STOP_WITHIN, bootstrap, is_ready, nodes};
use super::node::{self, Node};
use super::process::{has_argument, is_alive, signal};
use super::wait;

/// What SIGKILL may take; it only has to be carried out.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// The nodes of the cluster, each with the process that was last started for it.
#[derive(Debug, PartialEq, Eq)]
struct State {
    dir: PathBuf,
    brokers: Vec<Broker>,
}

#[derive(Debug, PartialEq, Eq)]
struct Broker {
    node: Node,
    /// 0 before the first start.
    pid: u32,
}

/// Starts the cluster, or those of its brokers that do not run, and prints its address once all are ready.
pub(crate) fn up(target: &Path, brokers: Option<u8>) -> Result<(), String> {
    let jars = Jars::ensure(target, true)?;
    let dir = run_folder(target);
    let mut state = match State::read(&dir)? {
        Some(state) => state,
        None => State::create(&jars, dir, brokers.unwrap_or(1))?,
    };
    let there = state.brokers.len();
    if brokers.is_some_and(|wanted| usize::from(wanted) != there) {
        return Err(format!(
            "Kafka has {there} broker(s) already; end it first with `cargo xtask kafka down`"
        ));
    }
    let started = state.start(&jars)?;
    state.ready(&started).map_err(|reason| {
        format!("{reason}\n`cargo xtask kafka down` ends what runs and removes its data")
    })?;
    println!("{}", state.bootstrap());
    Ok(())
}

/// Ends the cluster, with SIGKILL what SIGTERM does not, and removes its data.
pub(crate) fn down(target: &Path) -> Result<(), String> {
    let Some(state) = State::read(&run_folder(target))? else {
        eprintln!("xtask: Kafka is down");
        return Ok(());
    };
    let pids: Vec<u32> = state.running().map(|broker| broker.pid).collect();
    for (name, within) in [("TERM", STOP_WITHIN), ("KILL", KILL_WITHIN)] {
        state.signal(name);
        let ended = || Ok((!pids.iter().any(|pid| is_alive(*pid))).then_some(()));
        if wait::until(within, ended)?.is_some() {
            return remove(&state.dir);
        }
    }
    Err(format!("of the processes {pids:?} some do not end"))
}

/// Prints the address and the processes.
///
/// # Errors
/// When not all brokers run.
pub(crate) fn status(target: &Path) -> Result<(), String> {
    let Some(state) = State::read(&run_folder(target))? else {
        return Err("Kafka is down".to_owned());
    };
    println!("{}", state.bootstrap());
    let mut ended = 0;
    for broker in &state.brokers {
        let (number, address) = (broker.node.number, broker.node.address());
        if broker.is_running() {
            println!("broker {number} at {address}: process {}", broker.pid);
        } else {
            println!("broker {number} at {address}: ended");
            ended += 1;
        }
    }
    if ended == 0 {
        Ok(())
    } else {
        Err(format!(
            "{ended} broker(s) ended; `cargo xtask kafka up` starts them again"
        ))
    }
}

fn run_folder(target: &Path) -> PathBuf {
    target.join("kafka/run")
}

fn remove(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}

impl State {
    /// New nodes with formatted storage, of which none runs.
    fn create(jars: &Jars, dir: PathBuf, brokers: u8) -> Result<Self, String> {
        // What a start left that was interrupted before its state was written.
        remove(&dir)?;
        let (nodes, _ports) = nodes(&dir, brokers)?;
        node::prepare(jars, &nodes, &[])?;
        let brokers = nodes
            .into_iter()
            .map(|node| Broker { node, pid: 0 })
            .collect();
        let state = Self { dir, brokers };
        state.write()?;
        Ok(state)
    }

    /// `None` where there is no cluster.
    fn read(dir: &Path) -> Result<Option<Self>, String> {
        let file = Self::file(dir);
        match fs::read_to_string(&file) {
            Ok(text) => Self::parse(dir, &text).map(Some).ok_or_else(|| {
                format!(
                    "{} is not as written; end what runs and remove the folder",
                    file.display()
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
        }
    }

    /// Reads lines such as `1 20000 20001 4711`: a broker's number, its two ports and its process.
    fn parse(dir: &Path, text: &str) -> Option<Self> {
        let brokers: Option<Vec<Broker>> = text
            .lines()
            .map(|line| {
                let columns: Vec<&str> = line.split(' ').collect();
                let [number, port, controller_port, pid] = columns.as_slice() else {
                    return None;
                };
                let number = number.parse().ok()?;
                Some(Broker {
                    node: Node::new(
                        dir,
                        number,
                        port.parse().ok()?,
                        controller_port.parse().ok()?,
                    ),
                    pid: pid.parse().ok()?,
                })
            })
            .collect();
        let brokers = brokers.filter(|brokers| !brokers.is_empty())?;
        Some(Self {
            dir: dir.to_owned(),
            brokers,
        })
    }

    fn write(&self) -> Result<(), String> {
        let file = Self::file(&self.dir);
        let new = file.with_extension("new");
        // In one step, so that a Ctrl-C never leaves half a state and with it processes that nobody ends.
        fs::write(&new, self.to_string())
            .and_then(|()| fs::rename(&new, &file))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    }

    fn file(dir: &Path) -> PathBuf {
        dir.join("state")
    }

    /// Starts what does not run, and notes each process before the next; returns where their logs begin, by number.
    fn start(&mut self, jars: &Jars) -> Result<BTreeMap<u8, u64>, String> {
        let mut log_from = BTreeMap::new();
        for index in 0..self.brokers.len() {
            let broker = &mut self.brokers[index];
            if broker.is_running() {
                continue;
            }
            let started = broker.node.spawn(jars)?;
            broker.pid = started.child.id();
            log_from.insert(broker.node.number, started.log_from);
            self.write()?;
        }
        Ok(log_from)
    }

    /// Waits until all brokers know each other; of those not in `started` the whole log counts.
    fn ready(&self, started: &BTreeMap<u8, u64>) -> Result<(), String> {
        let peers: Vec<i32> = self
            .brokers
            .iter()
            .map(|broker| i32::from(broker.node.number))
            .collect();
        for broker in &self.brokers {
            let node = &broker.node;
            let log_from = started.get(&node.number).copied().unwrap_or(0);
            let ready = wait::until(READY_WITHIN, || {
                // Its command line does not show yet where it was just started.
                if !is_alive(broker.pid) {
                    let tail = node.log_tail(log_from);
                    return Err(format!("broker {} ended; {tail}", node.number));
                }
                Ok(is_ready(node, log_from, &peers)?.then_some(()))
            })?;
            ready.ok_or_else(|| {
                let tail = node.log_tail(log_from);
                format!(
                    "broker {} was not ready after {READY_WITHIN:?}; {tail}",
                    node.number
                )
            })?;
        }
        Ok(())
    }

    fn bootstrap(&self) -> String {
        bootstrap(self.brokers.iter().map(|broker| &broker.node))
    }

    fn running(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.iter().filter(|broker| broker.is_running())
    }

    /// Signals what runs; a process that ends meanwhile cannot be signalled, and need not be.
    fn signal(&self, name: &str) {
        for broker in self.running() {
            if let Err(reason) = signal(broker.pid, name) {
                eprintln!("xtask: {reason}");
            }
        }
    }
}

impl Broker {
    /// Whether its process is there; the properties file on its command line tells it from a later one of its number.
    fn is_running(&self) -> bool {
        self.pid != 0 && has_argument(self.pid, self.node.properties_file().as_os_str())
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Broker { node, pid } in &self.brokers {
            writeln!(
                f,
                "{} {} {} {pid}",
                node.number, node.port, node.controller_port
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is_taken_for_a_state() {
        let dir = crate::scratch::folder("laptop-state");
        assert_eq!(State::read(&dir), Ok(None));
        let state = State {
            dir: dir.clone(),
            brokers: (1..=3)
                .map(|number| Broker {
                    node: Node::new(&dir, number, 20_000, 20_001),
                    pid: u32::from(number) * 1_000,
                })
                .collect(),
        };

        state.write().unwrap();

        assert_eq!(State::read(&dir), Ok(Some(state)));
        for foreign in [
            "",
            "1 20000 20001\n",
            "1 20000 20001 x\n",
            "1 70000 20001 5\n",
        ] {
            fs::write(State::file(&dir), foreign).unwrap();
            let reason = State::read(&dir).unwrap_err();
            assert!(reason.contains("not as written"), "{foreign:?}: {reason}");
        }
    }

    #[test]
    fn a_process_that_got_the_number_of_a_broker_is_not_ended_as_one() {
        let target = crate::scratch::folder("laptop-foreign-pid");
        let dir = run_folder(&target);
        fs::create_dir_all(&dir).unwrap();
        let mut stranger = Command::new("sleep").arg("602").spawn().unwrap();
        let state = State {
            dir: dir.clone(),
            brokers: vec![Broker {
                node: Node::new(&dir, 1, 20_000, 20_001),
                pid: stranger.id(),
            }],
        };
        state.write().unwrap();

        assert!(status(&target).unwrap_err().contains("1 broker(s) ended"));
        down(&target).unwrap();

        assert_eq!(stranger.try_wait().unwrap(), None);
        assert!(!dir.exists());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
