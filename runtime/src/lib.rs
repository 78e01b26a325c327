//! The one door to clock, randomness, tasks, mailboxes and supervision.
