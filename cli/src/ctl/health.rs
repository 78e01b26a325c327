//! `tidewire ctl doctor`, and how a cluster is in one line a finding.

use admin::health::{Check, Health, SafeToStop, State};

use super::table::{Facts, Side, Table};
use super::{Done, End, Node};

/// `ctl cluster health`: what is wrong with the cluster, one line a finding; 3 if anything is.
pub(super) fn health(node: &Node) -> Done {
    let mut health = node.client.health()?;
    health
        .checks
        .retain(|check| check.of_cluster && check.state != State::Good);
    let is_good = health.checks.is_empty();
    node.print(&health, lines)?;
    end(is_good)
}

/// `ctl doctor`: all that was looked at, and what to do; 3 if anything is not as it is to be.
pub(super) fn doctor(node: &Node) -> Done {
    let health = node.client.health()?;
    let is_good = health.checks.iter().all(|check| check.state == State::Good);
    node.print(&health, |health| checklist(&health.checks))?;
    end(is_good)
}

/// `ctl cluster safe-to-stop`: 3 if it is not.
pub(super) fn safe_to_stop(node: &Node, which: Option<u32>) -> Done {
    let answer = node.client.safe_to_stop(which)?;
    node.print(&answer, verdict)?;
    end(answer.safe)
}

/// What is wrong is the answer itself.
fn end(is_good: bool) -> Done {
    Ok(if is_good { End::Good } else { End::Degraded })
}

fn lines(health: &Health) -> String {
    if health.checks.is_empty() {
        return "healthy\n".to_owned();
    }
    let line = |check: &Check| {
        let found = super::table::plain(&check.found);
        format!("{}: {}: {found}\n", word(check.state), check.about)
    };
    health.checks.iter().map(line).collect()
}

fn checklist(checks: &[Check]) -> String {
    let mut table = Table::new(&[
        ("", Side::Left),
        ("about", Side::Left),
        ("found", Side::Left),
        ("to do", Side::Left),
    ]);
    for check in checks {
        table.row([
            word(check.state).to_owned(),
            check.about.clone(),
            check.found.clone(),
            check.todo.clone(),
        ]);
    }
    table.text()
}

fn verdict(answer: &SafeToStop) -> String {
    let mut facts = Facts::default();
    facts.add("node", &answer.node.to_string());
    facts.add("safe", if answer.safe { "yes" } else { "no" });
    for reason in &answer.reasons {
        facts.add("because", reason);
    }
    for note in &answer.notes {
        facts.add("note", note);
    }
    facts.text()
}

fn word(state: State) -> &'static str {
    match state {
        State::Good => "ok",
        State::Warning => "warning",
        State::Broken => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_nothing_found_is_one_too() {
        let check = Check {
            about: "disks".into(),
            state: State::Broken,
            of_cluster: true,
            found: "the disk of node 2 is full".into(),
            todo: "make room".into(),
        };
        let health = Health {
            node: 1,
            checks: vec![check],
        };
        assert_eq!(
            lines(&health),
            "broken: disks: the disk of node 2 is full\n"
        );
        assert_eq!(lines(&Health::default()), "healthy\n");
        let list = checklist(&health.checks);
        assert!(
            list.lines()
                .nth(1)
                .is_some_and(|line| line.ends_with("make room")),
            "{list}"
        );
    }
}
