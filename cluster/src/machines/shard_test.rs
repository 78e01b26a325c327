use bytes::Bytes;
use cluster_core::{Attempt, Body, EpochView, NodeEpoch, WallMs};
use mqtt::ClientId;
use rand::Rng;
use session::{
    Answer, Command, ConnectionId, DurableEffect, Epoch, Identity, Limits, Open, WillFate,
};

use super::kept_test::{Kept, crashes_change_nothing, harmed_rows_are_named, restored};
use super::shard_commands_test::Leader;
use crate::{
    Machine, Outcome, ShardConfig, ShardEntry, ShardItem, ShardMachine, decode_message,
    message_row_key,
};

/// Small, so that the bounds are met.
fn config() -> ShardConfig {
    ShardConfig {
        limits: Limits {
            sessions: 3,
            queue_messages: 6,
            sent_ahead: 1,
            subscriptions: 3,
            q2_open: 2,
            retained_messages: 3,
            tombstones: 2,
            tombstone_s: 20,
            outbox_routes: 8,
            outbox_wills: 3,
            replay_s: 5,
            origins: 3,
            origin_s: 60,
            payload_cache_bytes: 600,
            ..Limits::default()
        },
    }
}

#[test]
fn a_crash_changes_nothing_of_a_shard() {
    for seed in 0..150 {
        let mut leader = Leader::default();
        let (mut crashed, spared) = crashes_change_nothing::<ShardMachine>(
            &config(),
            seed,
            |rng, _, machine| leader.entry(rng, machine),
            |rng, kept| {
                // What is handed out, and what is in memory, decides nothing.
                for _ in 0..rng.random_range(0..6) {
                    deliver(kept);
                }
            },
        );
        harmed_rows_are_named::<ShardMachine>(&config(), &spared.rows(), seed);
        assert_eq!(crashed.machine.receiver(), spared.machine.receiver());
        let counters = spared.machine.durable().counters();
        assert_eq!(crashed.machine.durable().counters(), counters);
        crashed.crash();
        assert_eq!(crashed.machine.durable().counters(), counters);
        assert!(crashed.machine.changes().is_empty());
    }
}

/// Takes an effect; a message that is to be loaded comes from its row.
fn deliver(kept: &mut Kept<ShardMachine>) {
    let Some(DurableEffect::Load { message }) = kept.machine.durable_mut().poll_effect() else {
        return;
    };
    let (kind, key) = message_row_key(message);
    let value = kept.value(kind, &key).expect("what is loaded is stored");
    let loaded = decode_message(message, &value).unwrap();
    kept.machine
        .durable_mut()
        .handle_loaded(message, loaded.into());
}
