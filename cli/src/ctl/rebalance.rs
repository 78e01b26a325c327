//! `tidewire ctl cluster rebalance`: clients go to the nodes of their shards.

use std::time::{Duration, Instant};

use admin::cluster::{REBALANCE_PER_S_MAX, RebalanceRequest, Rebalances};
use clap::Args;

use super::drain::pause;
use super::table::{Side, Table};
use super::{Done, End, Node, degraded};
use crate::arguments::duration;

#[derive(Debug, Args)]
pub(crate) struct Ask {
    /// Clients that go in a second, over all nodes.
    #[arg(long, value_name = "N/s", default_value = "100/s", value_parser = rate)]
    pub(crate) rate: u32,
    /// Send clients too whose sessions end with their connection: what they wait for is lost.
    #[arg(long)]
    pub(crate) clean: bool,
    /// Wait until all have gone, at most so long; 3 if that is not over then.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1h", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Only count them.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
}

/// A number a second, with or without saying so.
fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse().ok();
    let number = number.filter(|number| (1..=REBALANCE_PER_S_MAX).contains(number));
    number.ok_or_else(|| format!("not a number from 1/s to {REBALANCE_PER_S_MAX}/s"))
}

pub(super) fn run(node: &Node, asked: &Ask) -> Done {
    let begun = Instant::now();
    let mut found = node.client.rebalance(RebalanceRequest {
        per_s: asked.rate,
        clean: asked.clean,
        dry_run: asked.dry_run,
    })?;
    let runs = |found: &Rebalances| found.nodes.iter().any(|node| node.is_running);
    if let Some(patience) = asked.wait {
        let mut shown = None;
        while runs(&found) && begun.elapsed() < patience {
            let sent: u64 = found.nodes.iter().map(|node| node.sent).sum();
            if shown != Some(sent) {
                eprintln!(
                    "{:>5} s  {sent} clients were sent",
                    begun.elapsed().as_secs()
                );
                shown = Some(sent);
            }
            pause();
            found = node.client.rebalancing()?;
        }
    }
    let mut trouble: Vec<String> = found
        .nodes
        .iter()
        .filter_map(|one| {
            Some(format!(
                "node {} says nothing: {}",
                one.node,
                one.silent.as_ref()?
            ))
        })
        .collect();
    if asked.wait.is_some() && runs(&found) {
        trouble.push("clients are still being sent".to_owned());
    }
    match node.print(&found, table)? {
        End::Good => degraded(trouble),
        End::Degraded => Ok(End::Degraded),
    }
}

fn table(found: &Rebalances) -> String {
    let mut table = Table::new(&[
        ("node", Side::Right),
        ("looked at", Side::Right),
        ("elsewhere", Side::Right),
        ("sent", Side::Right),
        ("state", Side::Left),
    ]);
    for node in &found.nodes {
        let state = match (&node.silent, node.is_running, found.dry_run) {
            (Some(_), ..) => "silent".to_owned(),
            (_, true, _) => format!("sending {}/s", node.per_s),
            (_, _, true) => "counted".to_owned(),
            _ => "done".to_owned(),
        };
        table.row([
            node.node.to_string(),
            node.looked_at.to_string(),
            node.left.to_string(),
            node.sent.to_string(),
            state,
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_a_second_within_its_bounds() {
        assert_eq!((rate("7/s"), rate("7")), (Ok(7), Ok(7)));
        for wrong in ["0", "1001/s", "7/m", ""] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
