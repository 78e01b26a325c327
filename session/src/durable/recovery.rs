//! A state that goes on although entries behind it are lost.

use mqtt::ClientId;

use super::Durable;
use crate::Epoch;

impl Durable {
    /// Entries behind this state are lost, though their effects may have been seen: connections that
    /// were answered, versions that other groups have applied, numbers that targets know. Everything
    /// that the state counts goes on above `floor`, which is above every number it ever gave; every row
    /// of the outbox is to be told anew; and who is connected has lost the session, for nobody knows
    /// what the connection was told of it. To be called by no entry, but on the only replica there is,
    /// before it leads; whoever gets the state later has it so.
    ///
    /// # Panics
    /// If the state has given numbers above `floor`, or one of its low 48 bits is set.
    pub fn handle_recovered(&mut self, floor: u64) {
        assert!(
            self.index < floor && floor.trailing_zeros() >= 48,
            "a state at {} goes on above {floor}",
            self.index
        );
        self.index = floor;
        self.changes.applied();
        let connected = self.sessions.iter().filter(|(_, s)| s.is_connected());
        let connected: Vec<ClientId> = connected.map(|(client, _)| client.clone()).collect();
        for client in connected {
            self.disconnect(&client);
            // From now on the old connection's commands name an ownership that is over. Not before: a
            // will that was published already is known by the epoch of its connection.
            if let Some(session) = self.sessions.get_mut(&client) {
                session.epoch = Epoch(floor);
                self.changes.mark(&client, session);
            }
        }
        for (client, session) in &mut self.sessions {
            if let Some(state) = &mut session.state {
                state.q2.count_above(floor);
                self.changes.mark(client, session);
            }
        }
        self.groups.begin_anew(Epoch(floor));
        self.outbox.restate(floor);
        self.shares.restate(floor);
    }

    /// The version of the last route row.
    pub fn route_version(&self) -> u64 {
        self.outbox.counts().0
    }
}
