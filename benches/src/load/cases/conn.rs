//! Connecting, and what idle connections cost.

use super::*;

pub(super) fn conn(
    load: &Load,
    connections: u32,
    in_flight: u32,
    subscribe: bool,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let workers = workers_for(load, connections);
    let prefix = run_prefix();
    let plans: Vec<Plan> = (0..workers)
        .map(|worker| {
            let (first, count) = share(connections, workers, worker);
            let role = match subscribe {
                true => Role::Subscriber {
                    filter: format!("{prefix}/{{}}"),
                    qos: load.qos,
                    publishers: Publishers::Own,
                },
                false => Role::Idle,
            };
            let group = Group {
                prefix: format!("{prefix}c"),
                first,
                count,
                home: 0,
                persistent: load.persistent,
                role,
            };
            plan(load, vec![group])
        })
        .collect();
    let mut crew = Crew::start(&load.launch, &plans)?;
    let before = measured(load)?;
    let began = Moment::now(load)?;
    let tally = crew.all(Command::Connect {
        group: 0,
        in_flight: (in_flight / workers).max(1),
        jitter_ms: 0,
        subscribe: true,
        rule: None,
    })?;
    reached(load, &tally)?;
    let connected = measured(load)?;
    outcome.spent = began.map(|began| began.until_now(load)).transpose()?;
    // What a broker frees or settles after the rush is not the connections'.
    crew.all(Command::Run { ms: 500 })?;
    let idle = measured(load)?;
    outcome.setting("connections", connections);
    outcome.setting("in_flight", in_flight);
    outcome.setting("subscribe", subscribe);
    outcome.setting("persistent", load.persistent);
    outcome.setting("workers", workers);
    outcome.push("connected", tally.connected as f64);
    let seconds = tally.last_connect_ns.saturating_sub(tally.first_ns) as f64 / 1e9;
    outcome.push("connects_per_s", per_second(tally.connected, seconds));
    outcome.push("retries", tally.retries as f64);
    outcome.latency(
        [
            "connect_p50_us",
            "connect_p99_us",
            "connect_p999_us",
            "connect_max_us",
        ],
        &tally.connect,
    );
    if let (Some(before), Some(connected), Some(idle)) = (before, connected, idle) {
        let cpu_us = (connected.cpu_s - before.cpu_s) * 1e6;
        outcome.push("cpu_us_per_connect", cpu_us / tally.connected as f64);
        let grown = idle.rss_bytes.saturating_sub(before.rss_bytes);
        outcome.push(
            "rss_bytes_per_connection",
            grown as f64 / tally.connected as f64,
        );
        outcome.push("rss_bytes", idle.rss_bytes as f64);
    }
    outcome.check(&tally);
    crew.all(Command::Close {
        group: 0,
        abrupt: false,
    })?;
    Ok(())
}
