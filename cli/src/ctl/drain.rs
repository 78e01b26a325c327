//! `tidewire ctl cluster drain`, `undrain` and `forget`: taking a member out.

use std::time::{Duration, Instant};

use admin::cluster::{DrainRequest, Holdings};
use clap::Args;

use super::{Done, End, Node, degraded};
use crate::arguments::duration;

/// How often it is looked what a member still holds.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Number of the member.
    pub(crate) node: u32,
    /// Wait until it holds nothing, at most so long; 3 if it holds something then.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1h", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Only show what it holds.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
}

pub(super) fn drain(node: &Node, asked: &Drain) -> Done {
    if asked.dry_run {
        let holdings = node.client.holdings(asked.node)?;
        return node.print(&holdings, sentence);
    }
    let begun = Instant::now();
    let mut holdings = node.client.drain(&DrainRequest {
        node: asked.node,
        undo: false,
    })?;
    if let Some(patience) = asked.wait {
        let mut shown = String::new();
        while !holdings.is_empty && begun.elapsed() < patience {
            let text = sentence(&holdings);
            if text != shown {
                eprint!("{:>5} s  {text}", begun.elapsed().as_secs());
                shown = text;
            }
            pause();
            holdings = node.client.holdings(asked.node)?;
        }
    }
    let late = asked.wait.is_some() && !holdings.is_empty;
    match node.print(&holdings, sentence)? {
        End::Good if late => degraded([format!("node {} still holds something", asked.node)]),
        end => Ok(end),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process brings it about and tells nobody"
)]
fn pause() {
    std::thread::sleep(LOOK);
}

pub(super) fn undrain(node: &Node, member: u32) -> Done {
    let holdings = node.client.drain(&DrainRequest {
        node: member,
        undo: true,
    })?;
    node.print(&holdings, sentence)
}

pub(super) fn forget(node: &Node, member: u32) -> Done {
    let status = node.client.forget(&DrainRequest {
        node: member,
        undo: false,
    })?;
    node.print(&status, |_| {
        format!("node {member} is no member any more; its data folder can be deleted\n")
    })
}

/// What a member holds, and what to do next.
fn sentence(holdings: &Holdings) -> String {
    let Holdings { node, .. } = holdings;
    let what = match (holdings.is_leaving, holdings.is_running) {
        (false, _) => "holds",
        (true, true) => "is draining:",
        (true, false) => "is draining, and does not run:",
    };
    if holdings.is_empty {
        return match holdings.is_running {
            true => format!(
                "node {node} holds nothing: stop it (SIGTERM), then `tidewire ctl cluster forget {node}`\n"
            ),
            false => format!(
                "node {node} holds nothing, and does not run: `tidewire ctl cluster forget {node}`\n"
            ),
        };
    }
    let said = |count: Option<u64>, what: &str| match count {
        Some(count) => format!(", {count} {what}"),
        None => String::new(),
    };
    let silent = match &holdings.silent {
        Some(why) => format!(", what else it does not say: {why}"),
        None => String::new(),
    };
    format!(
        "node {node} {what} {} replicas, of which it leads {}, {} buckets, {} of them with rows{}{}{silent}\n",
        holdings.replicas,
        holdings.leads,
        holdings.buckets,
        holdings.buckets_with_rows,
        said(holdings.clients, "clients"),
        said(
            holdings.unstored_records,
            "records that only it is known to have"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_nothing_is_told_what_to_do_next() {
        let mut holdings = Holdings {
            node: 4,
            is_leaving: true,
            is_running: true,
            replicas: 7,
            leads: 2,
            clients: Some(31),
            ..Holdings::default()
        };
        let draining = "node 4 is draining: 7 replicas, of which it leads 2, 0 buckets, 0 of them with rows, \
                        31 clients\n";
        assert_eq!(sentence(&holdings), draining);

        holdings.is_empty = true;
        assert!(sentence(&holdings).contains("stop it"));
        holdings.is_running = false;
        assert!(sentence(&holdings).contains("forget 4"));
    }
}
