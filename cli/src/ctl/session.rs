//! `tidewire ctl client` and `tidewire ctl session`.

use admin::session::{
    Connection, Kick, Kicked, LIMIT_DEFAULT, LIMIT_MAX, Session, SessionDetails, SessionQuestion,
    Sessions,
};
use clap::{Args, Subcommand};

use super::pages::{Listed, end, gather};
use super::table::{Facts, Side, Table, bytes, span};
use super::{Done, End, Node, degraded};

#[derive(Debug, Subcommand)]
pub(crate) enum ClientVerb {
    /// Who is connected, and where.
    List(Part),
    /// All about one client, wherever it is; 3 if something of it is not known.
    Show {
        /// Client id.
        client: String,
    },
    /// Disconnect a client (MQTT 5: 0x98). Nothing keeps it from coming back.
    Kick {
        /// Client id.
        client: String,
        /// End its session too: queue, subscriptions and all.
        #[arg(long)]
        clean: bool,
        /// Say who would be disconnected where, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionVerb {
    /// Sessions, connected or away, and what waits for them.
    List {
        #[command(flatten)]
        list: Part,
        /// Those whose client is away.
        #[arg(long)]
        away: bool,
    },
    /// All about one session; as `client show`.
    Show {
        /// Client id.
        client: String,
    },
}

/// Which part of a list.
#[derive(Clone, Debug, Args)]
pub(crate) struct Part {
    /// Client ids that begin so.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Those whose client is at this node, or was last since it was started.
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = super::limit)]
    limit: usize,
    /// Client ids behind this one: where an earlier list ended.
    #[arg(long, value_name = "CLIENT")]
    after: Option<String>,
}

pub(super) fn clients(node: &Node, verb: &ClientVerb) -> Done {
    match verb {
        ClientVerb::List(asked) => list(node, asked, Some(true), clients_table),
        ClientVerb::Show { client } => show(node, client),
        ClientVerb::Kick {
            client,
            clean,
            dry_run,
        } => {
            let kick = Kick {
                clean: *clean,
                dry_run: *dry_run,
            };
            node.print(&node.client.kick(client, kick)?, kicked)
        }
    }
}

pub(super) fn sessions(node: &Node, verb: &SessionVerb) -> Done {
    match verb {
        SessionVerb::List { list: asked, away } => {
            list(node, asked, away.then_some(false), sessions_table)
        }
        SessionVerb::Show { client } => show(node, client),
    }
}

fn list(
    node: &Node,
    asked: &Part,
    connected: Option<bool>,
    table: impl Fn(&[Session]) -> String,
) -> Done {
    let listed = gather(
        asked.after.clone(),
        asked.limit,
        LIMIT_MAX,
        |after, limit| {
            let question = SessionQuestion {
                prefix: asked.prefix.clone(),
                after,
                limit: Some(limit),
                node: asked.node,
                connected,
            };
            let page = match connected {
                Some(true) => node.client.clients(&question)?,
                _ => node.client.sessions(&question)?,
            };
            Ok(Listed {
                rows: page.sessions,
                next: page.next,
                missing: page.missing,
            })
        },
    )?;
    let sessions = Sessions {
        sessions: listed.rows,
        next: listed.next,
        missing: listed.missing,
    };
    let printed = node.print(&sessions, |all| table(&all.sessions))?;
    end(printed, sessions.next.as_deref(), sessions.missing)
}

fn show(node: &Node, client: &str) -> Done {
    let details = node.client.session(client)?;
    let trouble = trouble(&details);
    match node.print(&details, details_table)? {
        End::Good => degraded(trouble),
        End::Degraded => Ok(End::Degraded),
    }
}

fn trouble(details: &SessionDetails) -> Vec<String> {
    let mut trouble = Vec::new();
    if !details.by_leader {
        trouble.push(format!(
            "nobody who leads shard {} answers: node {} says what its replica has",
            details.session.shard, details.answered_by
        ));
    }
    if let Some(why) = &details.connection_unknown {
        trouble.push(format!("nothing is known of the connection: {why}"));
    }
    trouble
}

fn clients_table(sessions: &[Session]) -> String {
    let mut table = Table::new(&[
        ("client", Side::Left),
        ("node", Side::Right),
        ("peer", Side::Left),
        ("mqtt", Side::Left),
        ("connected", Side::Right),
        ("session", Side::Left),
        ("subs", Side::Right),
        ("in flight", Side::Right),
        ("queued", Side::Right),
    ]);
    for session in sessions {
        let of =
            |cell: fn(&Connection) -> String| session.connection.as_ref().map_or_else(dash, cell);
        let local = session
            .connection
            .as_ref()
            .map_or(0, |one| one.subscriptions);
        let waiting = session.connection.as_ref().map_or(0, |one| one.waiting);
        let queued = match session.persistent {
            true => session.queue_messages,
            false => waiting,
        };
        table.row([
            session.client.clone(),
            session.node.map_or_else(dash, |node| node.to_string()),
            of(|one| one.peer.clone().unwrap_or_else(dash)),
            of(|one| one.protocol.clone()),
            of(|one| span(one.connected_s)),
            kind(session).to_owned(),
            (session.subscriptions + local).to_string(),
            of(|one| one.inflight.to_string()),
            queued.to_string(),
        ]);
    }
    table.text()
}

fn sessions_table(sessions: &[Session]) -> String {
    let mut table = Table::new(&[
        ("client", Side::Left),
        ("shard", Side::Right),
        ("state", Side::Left),
        ("for", Side::Right),
        ("ends in", Side::Right),
        ("session", Side::Left),
        ("subs", Side::Right),
        ("queued", Side::Right),
        ("bytes", Side::Right),
    ]);
    for session in sessions {
        let state = match (session.connected, session.node) {
            (true, Some(node)) => format!("at node {node}"),
            (true, None) => "at an ended node".to_owned(),
            (false, _) => "away".to_owned(),
        };
        let since = session.connection.as_ref().map(|one| one.connected_s);
        let local = session
            .connection
            .as_ref()
            .map_or(0, |one| one.subscriptions);
        table.row([
            session.client.clone(),
            session.shard.to_string(),
            state,
            session.away_s.or(since).map_or_else(dash, span),
            session.expires_in_s.map_or_else(dash, span),
            kind(session).to_owned(),
            (session.subscriptions + local).to_string(),
            session.queue_messages.to_string(),
            bytes(session.queue_bytes),
        ]);
    }
    table.text()
}

fn details_table(details: &SessionDetails) -> String {
    let session = &details.session;
    let mut facts = Facts::default();
    facts.add("client", &session.client);
    let state = match (session.connected, session.node, session.away_s) {
        (true, Some(node), _) => format!("connected at node {node}"),
        (true, None, _) => "connected at a node that has ended".to_owned(),
        (false, _, away) => format!("away for {}", away.map_or_else(dash, span)),
    };
    facts.add("state", &state);
    let ends = match (session.expires_in_s, session.expiry_s) {
        (Some(left), _) => format!("in {}", span(left)),
        (None, u32::MAX) => "never".to_owned(),
        (None, 0) => "with its connection".to_owned(),
        (None, expiry) => format!("{} after its client goes", span(u64::from(expiry))),
    };
    facts.add("session", &format!("{}, ends {ends}", kind(session)));
    let by = match details.by_leader {
        true => "the leader",
        false => "a replica that may be behind",
    };
    let (shard, node) = (session.shard, details.answered_by);
    facts.add("shard", &format!("{shard}, by node {node}, {by}"));
    let ownership = format!(
        "epoch {}, session since epoch {}",
        session.epoch, session.incarnation
    );
    facts.add(
        "owner",
        &format!("{ownership}, node epoch {}", session.node_epoch),
    );
    facts.add(
        "queue",
        &format!(
            "{} messages, {}; {} of them perhaps sent and not acknowledged",
            session.queue_messages,
            bytes(session.queue_bytes),
            details.unacknowledged
        ),
    );
    let oldest = details
        .oldest_ms
        .map(|ms| admin::time::format_time(ms as i64));
    let oldest = match (oldest, session.queue_messages) {
        (Some(time), _) => format!("received {time}"),
        (None, 0) => "-".to_owned(),
        (None, _) => "its payload is on disk alone".to_owned(),
    };
    facts.add("oldest", &oldest);
    facts.add("qos 2 in", &format!("{} unreleased", details.unreleased));
    let will = details.will.as_ref().map_or_else(dash, |will| {
        format!(
            "{} at QoS {}, delay {}",
            will.topic,
            will.qos,
            span(u64::from(will.delay_s))
        )
    });
    facts.add("will", &will);
    if let Some(connection) = &session.connection {
        add_connection(&mut facts, connection, session.receive_maximum);
    }
    let mut text = facts.text();
    if details.subscriptions.is_empty() {
        return text + "no subscriptions\n";
    }
    let mut table = Table::new(&[("subscribed to", Side::Left), ("qos", Side::Right)]);
    for one in &details.subscriptions {
        table.row([one.filter.clone(), one.qos.to_string()]);
    }
    text += "\n";
    text += &table.text();
    let more = details.subscriptions_total - details.subscriptions.len() as u64;
    if more > 0 {
        text += &format!("and {more} more\n");
    }
    text
}

fn add_connection(facts: &mut Facts, connection: &Connection, receive_maximum: u16) {
    let peer = connection.peer.clone().unwrap_or_else(dash);
    facts.add(
        "connection",
        &format!(
            "from {peer}, MQTT {}, for {}, heard {} ms ago, keep alive {} s",
            connection.protocol,
            span(connection.connected_s),
            connection.silent_ms,
            connection.keep_alive_s
        ),
    );
    facts.add(
        "in flight",
        &format!(
            "{} of {receive_maximum} to the client, {} acknowledgements owed to it",
            connection.inflight, connection.owed
        ),
    );
    facts.add(
        "waiting",
        &format!(
            "{} messages at the node, {}; {} in the socket's way",
            connection.waiting,
            bytes(connection.waiting_bytes),
            bytes(connection.unsent_bytes)
        ),
    );
    facts.add(
        "dropped",
        &format!(
            "{} queue full, {} expired, {} too large",
            connection.dropped_full, connection.dropped_expired, connection.dropped_too_large
        ),
    );
}

fn kicked(kicked: &Kicked) -> String {
    let done = match kicked.dry_run {
        true => "would be disconnected",
        false => "is disconnected",
    };
    let session = match kicked.clean {
        true => "; its session ends",
        false => "; its session stays as long as it is to",
    };
    let client = super::table::plain(&kicked.client);
    format!(
        "client {client} {done} from node {}{session}\n",
        kicked.node
    )
}

/// By what happens at the end of the connection, whatever keeps the session until then.
fn kind(session: &Session) -> &'static str {
    match session.expiry_s {
        0 => "clean",
        _ => "lasting",
    }
}

fn dash() -> String {
    "-".to_owned()
}
