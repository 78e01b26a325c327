//! Sessions that are away, and come back: one after the other, or all at once.

use super::*;

/// The sessions again, as clean ones: connecting and closing them leaves nothing behind.
fn cleanup_group(sessions: &Group) -> Group {
    Group {
        persistent: false,
        role: Role::Idle,
        ..sessions.clone()
    }
}

/// Place of the group of [`cleanup_group`].
const CLEANUP: usize = 2;

fn clean_up(crew: &mut Crew, load: &Load, workers: u32) -> Result<(), LoadError> {
    crew.all(Command::Close {
        group: SUBSCRIBERS,
        abrupt: false,
    })?;
    connect(crew, load, workers, CLEANUP)?;
    crew.all(Command::Close {
        group: CLEANUP,
        abrupt: false,
    })?;
    Ok(())
}

/// Pairs whose subscribers are sessions that are away, and the same sessions as clean ones.
fn away_plans(load: &Load, sessions: u32, window: u32) -> Vec<Plan> {
    let workers = workers_for(load, sessions * 2);
    let prefix = run_prefix();
    (0..workers)
        .map(|worker| {
            let mut groups = pair_groups(load, &prefix, share(sessions, workers, worker), window);
            groups[SUBSCRIBERS].persistent = true;
            groups.push(cleanup_group(&groups[SUBSCRIBERS]));
            plan(load, groups)
        })
        .collect()
}

/// What the broker used before, between and after the steps of [`queue`], and what they counted.
struct Queued {
    others: Tally,
    enqueue: Tally,
    at_first: Option<Usage>,
    opened: Option<Usage>,
    before: Option<Usage>,
    after: Option<Usage>,
}

/// Opens the sessions, leaves them, and publishes for them.
fn queue(crew: &mut Crew, load: &Load, workers: u32, messages: u64) -> Result<Queued, LoadError> {
    let at_first = measured(load)?;
    let mut others = connect(crew, load, workers, SUBSCRIBERS)?;
    crew.all(Command::Close {
        group: SUBSCRIBERS,
        abrupt: false,
    })?;
    let opened = measured(load)?;
    others.merge(&connect(crew, load, workers, PUBLISHERS)?);
    let before = measured(load)?;
    let mut enqueue = crew.all(Command::Publish {
        group: PUBLISHERS,
        rate_per_s: None,
        messages: Some(messages),
    })?;
    enqueue.merge(&crew.all(Command::Drain { quiet_ms: QUIET_MS })?);
    let after = measured(load)?;
    crew.all(Command::Close {
        group: PUBLISHERS,
        abrupt: false,
    })?;
    Ok(Queued {
        others,
        enqueue,
        at_first,
        opened,
        before,
        after,
    })
}

pub(super) fn fill(
    load: &Load,
    sessions: u32,
    messages: u64,
    window: u32,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let plans = away_plans(load, sessions, window);
    let mut crew = Crew::start(&load.launch, &plans)?;
    let queued = queue(&mut crew, load, plans.len() as u32, messages)?;
    let enqueue = &queued.enqueue;
    outcome.setting("sessions", sessions);
    outcome.setting("messages_per_session", messages);
    outcome.setting("window", window);
    outcome.setting("payload_bytes", load.payload_bytes);
    outcome.push("enqueued", enqueue.acked as f64);
    outcome.push(
        "enqueues_per_s",
        per_second(enqueue.acked, enqueue.seconds()),
    );
    if let (Some(at_first), Some(opened)) = (queued.at_first, queued.opened) {
        let grown = opened.rss_bytes as f64 - at_first.rss_bytes as f64;
        outcome.push("rss_bytes_per_session", grown / f64::from(sessions));
    }
    outcome.latency(
        ["ack_p50_us", "ack_p99_us", "ack_p999_us", "ack_max_us"],
        &enqueue.ack,
    );
    outcome.acknowledged(enqueue);
    outcome.check(&queued.others);
    outcome.check(enqueue);
    Ok(())
}

pub(super) fn offline(
    load: &Load,
    sessions: u32,
    messages: u64,
    window: u32,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let plans = away_plans(load, sessions, window);
    let workers = plans.len() as u32;
    let mut crew = Crew::start(&load.launch, &plans)?;
    let Queued {
        mut others,
        enqueue,
        before,
        after: queued,
        ..
    } = queue(&mut crew, load, workers, messages)?;

    let before_drain = measured(load)?;
    let mut drain = crew.all(Command::Connect {
        group: SUBSCRIBERS,
        in_flight: (IN_FLIGHT / workers).max(1),
        jitter_ms: 0,
        subscribe: false,
        rule: None,
    })?;
    drain.merge(&crew.each(|worker| {
        let count = u64::from(plans[worker].groups[SUBSCRIBERS].count);
        Some(Command::Receive {
            total: count * messages,
            quiet_ms: QUIET_MS,
        })
    })?);
    let drained = measured(load)?;

    outcome.setting("sessions", sessions);
    outcome.setting("messages_per_session", messages);
    outcome.setting("window", window);
    outcome.setting("qos", load.qos);
    outcome.setting("payload_bytes", load.payload_bytes);
    outcome.setting("workers", workers);
    outcome.push("enqueued", enqueue.acked as f64);
    outcome.push(
        "enqueues_per_s",
        per_second(enqueue.acked, enqueue.seconds()),
    );
    if let (Some(before), Some(queued)) = (before, queued) {
        let grown = queued.rss_bytes.saturating_sub(before.rss_bytes);
        outcome.push("rss_bytes_per_message", grown as f64 / enqueue.acked as f64);
        let cpu_s = queued.cpu_s - before.cpu_s;
        outcome.push(
            "enqueue_cpu_s_per_million",
            cpu_s * 1e6 / enqueue.acked as f64,
        );
    }
    outcome.deliveries(load.qos, enqueue.sent, &drain);
    outcome.push("drains_per_s", per_second(drain.received, drain.seconds()));
    if let (Some(before), Some(after), true) = (before_drain, drained, drain.received > 0) {
        let cpu_s = after.cpu_s - before.cpu_s;
        outcome.push(
            "drain_cpu_s_per_million",
            cpu_s * 1e6 / drain.received as f64,
        );
    }
    outcome.latency(
        ["ack_p50_us", "ack_p99_us", "ack_p999_us", "ack_max_us"],
        &enqueue.ack,
    );
    outcome.acknowledged(&enqueue);
    for tally in [&enqueue, &drain] {
        others.merge(tally);
    }
    outcome.check(&others);
    clean_up(&mut crew, load, workers)
}

pub(super) fn storm(
    load: &Load,
    sessions: u32,
    jitter: Duration,
    pairs: u32,
    rate_per_s: f64,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let workers = workers_for(load, sessions);
    let prefix = run_prefix();
    let mut plans: Vec<Plan> = (0..workers)
        .map(|worker| {
            let part = share(sessions, workers, worker);
            let mut groups = pair_groups(load, &format!("{prefix}r"), part, 1);
            groups[SUBSCRIBERS].persistent = true;
            groups[PUBLISHERS].count = 0;
            groups.push(cleanup_group(&groups[SUBSCRIBERS]));
            plan(load, groups)
        })
        .collect();
    // The pairs have a worker of their own, so that the reconnecting ones do not delay them here.
    let beside = workers as usize;
    let mut groups = pair_groups(
        load,
        &format!("{prefix}b"),
        (0, pairs),
        WINDOW_MAX.min(1_024),
    );
    groups.push(Group {
        count: 0,
        ..cleanup_group(&groups[SUBSCRIBERS])
    });
    plans.push(plan(load, groups));

    let mut crew = Crew::start(&load.launch, &plans)?;
    let mut all = connect(&mut crew, load, workers, SUBSCRIBERS)?;
    all.merge(&connect(&mut crew, load, workers, PUBLISHERS)?);
    let publish = Command::Publish {
        group: PUBLISHERS,
        rate_per_s: Some(rate_per_s),
        messages: None,
    };
    let only_beside = |command: Command| move |worker: usize| (worker == beside).then_some(command);
    all.merge(&crew.each(only_beside(publish))?);
    let calm = crew.each(only_beside(Command::Run { ms: STORM_WATCH_MS }))?;
    let before = measured(load)?;
    crew.each(|worker| {
        (worker != beside).then_some(Command::Close {
            group: SUBSCRIBERS,
            abrupt: true,
        })
    })?;
    let storm = crew.each(|worker| {
        (worker != beside).then_some(Command::Connect {
            group: SUBSCRIBERS,
            in_flight: u32::MAX,
            jitter_ms: jitter.as_millis() as u64,
            subscribe: false,
            rule: None,
        })
    })?;
    reached(load, &storm)?;
    let after = measured(load)?;
    let mut during = crew.each(only_beside(Command::Run { ms: 0 }))?;
    let mut rest = crew.each(only_beside(Command::Drain { quiet_ms: QUIET_MS }))?;
    rest.merge(&crew.each(only_beside(Command::Receive {
        total: u64::MAX,
        quiet_ms: 200,
    }))?);

    outcome.setting("sessions", sessions);
    outcome.setting("jitter_ms", jitter.as_millis());
    outcome.setting("pairs", pairs);
    outcome.setting("rate_per_s", rate_per_s);
    outcome.setting("workers", workers + 1);
    outcome.push("reconnected", storm.connected as f64);
    let seconds = storm.last_connect_ns.saturating_sub(storm.first_ns) as f64 / 1e9;
    outcome.push("seconds", seconds);
    outcome.push("retries", storm.retries as f64);
    outcome.latency(
        [
            "connect_p50_us",
            "connect_p99_us",
            "connect_p999_us",
            "connect_max_us",
        ],
        &storm.connect,
    );
    outcome.latency(
        ["calm_p50_us", "calm_p99_us", "calm_p999_us", "calm_max_us"],
        &calm.delivery,
    );
    outcome.latency(
        [
            "others_p50_us",
            "others_p99_us",
            "others_p999_us",
            "others_max_us",
        ],
        &during.delivery,
    );
    if let Some((before, after)) = before.zip(after) {
        let cpu_us = (after.cpu_s - before.cpu_s) * 1e6;
        outcome.push(
            "cpu_us_per_reconnect",
            cpu_us / storm.connected.max(1) as f64,
        );
        outcome.push("rss_bytes", after.rss_bytes as f64);
    }
    during.merge(&calm);
    during.merge(&rest);
    outcome.deliveries(load.qos, during.sent, &during);
    outcome.acknowledged(&during);
    all.merge(&storm);
    all.merge(&during);
    outcome.check(&all);
    crew.all(Command::Close {
        group: PUBLISHERS,
        abrupt: false,
    })?;
    clean_up(&mut crew, load, workers)
}
