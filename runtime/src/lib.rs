//! The one door to clock, randomness, tasks, mailboxes, actors and supervision.
//!
//! Everything above takes `now` and randomness as arguments or from here, so that it can be run
//! under simulation. Two kinds of actors live here: the long-lived ones are `ractor` actors under
//! a [`Supervisor`]; connections are bare tasks on an io thread ([`IoThread`]) with a bounded
//! two-priority [`Mailbox`] and an [`Exit`] that is reported in batches.

mod clock;
mod exit;
mod io_thread;
mod limits;
mod mailbox;
mod random;
mod stop;
mod supervisor;
mod wheel;

pub use clock::{Clock, ManualClock, SystemClock};
pub use exit::{Exit, Guarded};
pub use io_thread::{IoHandle, IoThread, SendRefused};
pub use limits::{DescriptorLimit, DiskSpace, descriptor_limit, disk_space, usable_cores};
pub use mailbox::{Mailbox, Priority, Refused};
pub use random::Random;
pub use stop::{StopSignal, stop_signal};
pub use supervisor::{ChildSpec, Restart, Restarted, Restarts, Supervisor, SupervisorMessage};
pub use wheel::{TimerKey, Wheel};

pub use ractor;
