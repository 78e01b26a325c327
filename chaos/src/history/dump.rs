//! A history as JSON lines, for whoever looks into it afterwards.

use std::io::{self, Write};

use serde::Serialize;

use super::{Event, History, Role};

/// The first line.
#[derive(Serialize)]
struct Header<'a> {
    seed: u64,
    drained_us: Option<u64>,
    taken_us: u64,
    unrecorded: u64,
    nodes: &'a [std::net::SocketAddr],
    topics: &'a [String],
    filters: &'a [String],
    actors: Vec<Participant<'a>>,
}

#[derive(Serialize)]
struct Participant<'a> {
    client_id: &'a str,
    role: Role,
    expiry_s: u32,
    events: usize,
}

#[derive(Serialize)]
struct Line<'a> {
    actor: usize,
    #[serde(flatten)]
    event: &'a Event,
}

impl History {
    /// Writes a line about the run and then one for each event, actor by actor.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_json_lines(&self, out: &mut dyn Write) -> io::Result<()> {
        let actors = self.actors.iter().map(|actor| Participant {
            client_id: &actor.client_id,
            role: actor.role,
            expiry_s: actor.expiry_s,
            events: actor.events.len(),
        });
        let header = Header {
            seed: self.seed,
            drained_us: self.drained_us,
            taken_us: self.taken_us,
            unrecorded: self.unrecorded,
            nodes: &self.nodes,
            topics: &self.topics,
            filters: &self.filters,
            actors: actors.collect(),
        };
        serde_json::to_writer(&mut *out, &header)?;
        out.write_all(b"\n")?;
        for (actor, of) in self.actors.iter().enumerate() {
            for event in &of.events {
                serde_json::to_writer(&mut *out, &Line { actor, event })?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Actor, What};

    #[test]
    fn each_event_is_a_line_of_json_with_its_actor() {
        let history = History {
            seed: 5,
            actors: vec![Actor {
                client_id: "a".to_owned(),
                role: Role::Clean,
                expiry_s: 0,
                events: vec![Event {
                    at_us: 17,
                    what: What::Connected {
                        session_present: false,
                    },
                }],
            }],
            ..History::default()
        };
        let mut out = Vec::new();
        history.write_json_lines(&mut out).unwrap();
        let lines: Vec<serde_json::Value> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["seed"], 5);
        assert_eq!(lines[0]["actors"][0]["role"], "clean");
        let event = serde_json::json!({
            "actor": 0, "at_us": 17, "what": "connected", "session_present": false
        });
        assert_eq!(lines[1..], [event]);
    }
}
