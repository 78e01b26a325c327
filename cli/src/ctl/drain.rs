//! `tidewire ctl cluster drain`, `undrain`, `forget` and `replace`: taking a member out.

use std::time::{Duration, Instant};

use admin::cluster::{DrainRequest, Holdings, ReplaceRequest};
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

/// A member of which one is told, and whether it is only asked what would be done.
#[derive(Debug, Args)]
pub(crate) struct Told {
    /// Number of the member.
    pub(crate) node: u32,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Replace {
    /// Number of the member that is to leave, or is lost.
    pub(crate) old: u32,
    /// Number of the member that takes its place; it has joined, and serves.
    pub(crate) new: u32,
    /// Wait until the old one has left, at most so long; 3 if it has not then.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1h", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Say what would be done, and do nothing.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
}

pub(super) fn drain(node: &Node, asked: &Drain) -> Done {
    let mut holdings = node.client.drain(&DrainRequest {
        node: asked.node,
        undo: false,
        dry_run: asked.dry_run,
    })?;
    if asked.dry_run {
        return node.print(&holdings, sentence);
    }
    if let Some(patience) = asked.wait {
        holdings = watched(node, holdings, patience, |holdings| holdings.is_empty)?;
    }
    let late = asked.wait.is_some() && !holdings.is_empty;
    match node.print(&holdings, sentence)? {
        End::Good if late => degraded([format!("node {} still holds something", asked.node)]),
        end => Ok(end),
    }
}

/// Says what a member still holds, whenever that changes, until it is enough or too late.
fn watched(
    node: &Node,
    mut holdings: Holdings,
    patience: Duration,
    is_enough: impl Fn(&Holdings) -> bool,
) -> Result<Holdings, super::Failed> {
    let begun = Instant::now();
    let mut shown = String::new();
    while !is_enough(&holdings) && begun.elapsed() < patience {
        let text = sentence(&holdings);
        if text != shown {
            eprint!("{:>5} s  {text}", begun.elapsed().as_secs());
            shown = text;
        }
        pause();
        holdings = node.client.holdings(holdings.node)?;
    }
    Ok(holdings)
}

/// Drains the old member and, once it holds nothing and does not run, has it forgotten.
pub(super) fn replace(node: &Node, asked: &Replace) -> Done {
    let (old, new) = (asked.old, asked.new);
    let dry_run = asked.dry_run;
    let mut holdings = node.client.replace(ReplaceRequest { old, new, dry_run })?;
    if dry_run {
        return node.print(&holdings, |holdings| {
            format!("node {new} would take the place of node {old}\n") + &sentence(holdings)
        });
    }
    if let Some(patience) = asked.wait {
        let is_over = |holdings: &Holdings| holdings.is_empty && !holdings.is_running;
        holdings = watched(node, holdings, patience, is_over)?;
        if is_over(&holdings) {
            node.client.forget(&DrainRequest {
                node: old,
                ..DrainRequest::default()
            })?;
            return node.print(&holdings, |_| {
                format!("node {new} is in the place of node {old}, which is no member any more\n")
            });
        }
    }
    let is_late = asked.wait.is_some();
    match node.print(&holdings, |holdings| {
        format!("node {new} takes the place of node {old}\n") + &sentence(holdings)
    })? {
        End::Good if is_late => degraded([format!("node {old} has not left")]),
        end => Ok(end),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "another process brings it about and tells nobody"
)]
pub(super) fn pause() {
    std::thread::sleep(LOOK);
}

pub(super) fn undrain(node: &Node, told: &Told) -> Done {
    let holdings = node.client.drain(&DrainRequest {
        node: told.node,
        undo: true,
        dry_run: told.dry_run,
    })?;
    node.print(&holdings, |holdings| match told.dry_run {
        true => format!("node {} would keep what it holds\n", told.node) + &sentence(holdings),
        false => sentence(holdings),
    })
}

pub(super) fn forget(node: &Node, told: &Told) -> Done {
    let member = told.node;
    let status = node.client.forget(&DrainRequest {
        node: member,
        dry_run: told.dry_run,
        ..DrainRequest::default()
    })?;
    node.print(&status, |_| match told.dry_run {
        true => format!("node {member} would be no member any more\n"),
        false => {
            format!("node {member} is no member any more; its data folder can be deleted\n")
        }
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
