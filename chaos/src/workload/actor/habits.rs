//! When what is due: going away, stalling, pings.

use std::time::Duration;

use mqtt::Packet;
use rand::Rng;
use tokio::time::Instant;

use super::{Actor, Ending, LOOK, PING_AFTER, PONG_DEADLINE};
use crate::client::Wire;
use crate::history::{End, Role};
use crate::workload::plan::{Habit, Leaving};
use crate::workload::world::Phase;

/// When less than this is left of a session's expiry at a reconnect, it may have expired.
const EXPIRY_MARGIN: Duration = Duration::from_millis(500);

/// Are the moments that an actor waits for.
#[derive(Debug)]
pub(super) struct Timers {
    /// When the plan goes away.
    pub(super) leave_at: Option<Instant>,
    /// How often it went.
    pub(super) leaves: u64,
    /// When it begins to read nothing.
    pub(super) stall_at: Option<Instant>,
    /// Until when it reads nothing.
    pub(super) stalled_until: Option<Instant>,
    /// When the next burst is due.
    pub(super) publish_at: Instant,
    /// From when on nothing more is published on this connection.
    pub(super) hushed_at: Option<Instant>,
    /// Since when the oldest acknowledgement is awaited, or the last one came.
    pub(super) waiting_since: Option<Instant>,
    /// When something came last.
    pub(super) last_read: Instant,
    pub(super) ping_sent: Option<Instant>,
    /// When the last connection ended.
    pub(super) connected_until: Option<Instant>,
}

impl Default for Timers {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            leave_at: None,
            leaves: 0,
            stall_at: None,
            stalled_until: None,
            publish_at: now,
            hushed_at: None,
            waiting_since: None,
            last_read: now,
            ping_sent: None,
            connected_until: None,
        }
    }
}

impl Actor {
    /// Sets the timers of a connection that begins.
    pub(super) fn begin_connection(&mut self) {
        let now = Instant::now();
        let random = &mut self.random;
        let timers = &mut self.timers;
        timers.leave_at = match &self.plan.habit {
            Habit::Leaves { stay, .. } => {
                let at = timers.leaves as usize % stay.len();
                Some(now + stay[at].draw(random))
            }
            _ => None,
        };
        timers.stall_at = match &self.plan.habit {
            Habit::Stalls { every, .. } => Some(now + every.draw(random)),
            _ => None,
        };
        timers.stalled_until = None;
        timers.last_read = now;
        timers.ping_sent = None;
        timers.waiting_since = (self.session.outgoing().len() > 0).then_some(now);
        if let Some(publishes) = &self.plan.publishes {
            // Those that lost a node together do not publish together for ever.
            timers.publish_at = now + publishes.interval.mul_f64(random.random());
            timers.hushed_at = publishes.hushed_after.map(|after| now + after);
        }
    }

    /// Whether the session may have expired since the last connection.
    pub(super) fn may_have_expired(&self) -> bool {
        let expiry = Duration::from_secs(u64::from(self.plan.expiry_s));
        let until = self.timers.connected_until;
        until.is_some_and(|until| until.elapsed() + EXPIRY_MARGIN >= expiry)
    }

    /// Whether the actor goes away now, and how.
    pub(super) fn leaves(&mut self) -> Option<Option<Leaving>> {
        let phase = self.world.phase();
        if phase == Phase::Over {
            return Some(None);
        }
        if phase > Phase::Running {
            // The others are to drain; these would fight, or die, for ever.
            let is_second = matches!(
                self.plan.habit,
                Habit::Contends {
                    is_second: true,
                    ..
                }
            );
            if is_second || self.is_role(Role::Willing) {
                self.is_done = true;
                return Some(None);
            }
            return None;
        }
        let is_due = self.timers.leave_at.is_some_and(|at| Instant::now() >= at);
        let Habit::Leaves { how, .. } = &self.plan.habit else {
            return None;
        };
        is_due.then(|| match how {
            Leaving::Either if self.random.random() => Some(Leaving::Abruptly),
            Leaving::Either => Some(Leaving::Cleanly),
            how => Some(*how),
        })
    }

    /// Whether the actor reads nothing now.
    pub(super) fn is_stalled(&mut self) -> bool {
        let Habit::Stalls { every, lasts } = &self.plan.habit else {
            return false;
        };
        let now = Instant::now();
        let is_running = self.world.phase() == Phase::Running;
        match self.timers.stalled_until {
            Some(until) if now < until && is_running => true,
            Some(_) => {
                self.timers.stalled_until = None;
                self.timers.last_read = now;
                self.timers.stall_at = Some(now + every.draw(&mut self.random));
                false
            }
            None if is_running && self.timers.stall_at.is_some_and(|at| now >= at) => {
                self.timers.stalled_until = Some(now + lasts.draw(&mut self.random));
                true
            }
            None => false,
        }
    }

    /// Sends PINGREQ when it is due, and gives a connection up that does not answer.
    pub(super) fn ping_due(&mut self, wire: &mut Wire) -> Result<(), Ending> {
        let now = Instant::now();
        let slow = || Ending {
            is_wanted: false,
            ..Ending::wanted(End::Slow)
        };
        let give_up = Duration::from_secs(self.world.config.give_up_s);
        if self
            .timers
            .waiting_since
            .is_some_and(|since| now >= since + give_up)
        {
            return Err(slow());
        }
        if self.timers.stalled_until.is_some() {
            return Ok(());
        }
        match self.timers.ping_sent {
            Some(sent) if self.timers.last_read >= sent => self.timers.ping_sent = None,
            Some(sent) if now >= sent + PONG_DEADLINE => return Err(slow()),
            Some(_) => {}
            None if now >= wire.last_write + PING_AFTER => {
                wire.send(&Packet::PingReq);
                self.timers.ping_sent = Some(now);
            }
            None => {}
        }
        Ok(())
    }

    /// Until when there is nothing to do unless something comes.
    pub(super) fn next_wake(&self) -> Instant {
        let soon = Instant::now() + LOOK;
        let mut wake = soon;
        for at in [self.timers.leave_at, self.timers.stalled_until]
            .into_iter()
            .flatten()
        {
            wake = wake.min(at);
        }
        if self.may_publish() && self.has_room() {
            wake = wake.min(self.timers.publish_at);
        }
        wake
    }
}
