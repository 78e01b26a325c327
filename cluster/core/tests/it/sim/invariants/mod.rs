//! What must hold at the end of every run, one file each.
//!
//! What is seen while a run goes on (a session that is gone, an ended connection that unseats a
//! newer one, an item of an ended epoch) is noted where it happens.

mod exactly_once;
mod groups;
mod lost;
mod order;
mod retained;
mod routes;
mod wills;

use super::Sim;

/// Everything that does not hold.
pub(crate) fn all(sim: &Sim) -> Vec<String> {
    let mut violations = sim.ctx.violations.clone();
    for client in &sim.clients {
        violations.extend(client.faults.iter().cloned());
    }
    violations.extend(lost::check(sim));
    violations.extend(groups::check(sim));
    violations.extend(exactly_once::check(sim));
    violations.extend(order::check(sim));
    violations.extend(wills::check(sim));
    violations.extend(retained::check(sim));
    violations.extend(routes::check(sim));
    violations
}
