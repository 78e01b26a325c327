//! A real Kafka is told how far the store is, and says where partitions end.

use std::sync::Arc;

use rdkafka::consumer::BaseConsumer;

use super::*;
use crate::kafka::contact::block_on;
use crate::kafka::test_kafka;
use crate::kafka::test_topic::{Topic, WAIT};
use crate::log_conformance::record;

const NODE: u32 = 7;

fn group(topic: &Topic) -> (Group, Arc<Watch>) {
    let watch = Arc::new(Watch::new(topic.partitions));
    let started = Group::start(&topic.settings, &topic.name, NODE, Arc::clone(&watch));
    (started.expect("a thread"), watch)
}

/// Waits until Kafka has this offset of partition 0 for the group.
fn wait_for_offset(topic: &Topic, offset: i64) {
    let mut config = topic.settings.client();
    let group: BaseConsumer = config
        .set("group.id", name_of(NODE))
        .create()
        .expect("good settings");
    let mut place = TopicPartitionList::new();
    place.add_partition(&topic.name, 0);
    let mut known = None;
    for _ in 0..120 {
        known = group.committed_offsets(place.clone(), WAIT).ok();
        let is_there =
            |list: &TopicPartitionList| list.elements()[0].offset() == Offset::Offset(offset);
        if known.as_ref().is_some_and(is_there) {
            return;
        }
        // What the client reports of the outage, or a pause.
        drop(group.poll(Duration::from_millis(250)));
    }
    panic!("the group is at {known:?}, not at {offset}");
}

#[test]
fn tools_see_how_far_the_store_is() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "lag", 1);
    topic.produce((0..5).map(|n| record(0, n)));
    let (_group, watch) = group(&topic);

    watch.note_release(&[(0, 3)]);

    wait_for_offset(&topic, 3);
    // Told during an outage, it is there after it.
    kafka.kill();
    watch.note_release(&[(0, 5)]);
    kafka.start();
    wait_for_offset(&topic, 5);
}

#[test]
fn where_a_partition_ends_is_learned_when_it_is_asked() {
    let Some(mut kafka) = test_kafka::or_skip() else {
        return;
    };
    let topic = Topic::new(&mut kafka, "ends", 3);
    let (group, watch) = group(&topic);
    // Nobody reads it here: another node's store or producer may have written a moment ago.
    topic.produce([record(1, 0), record(1, 1), record(2, 2)]);

    block_on(group.learn(1)).expect("Kafka answers");

    assert_eq!(watch.ends(), [0, 2, 0], "what was asked for, no more");
    topic.produce([record(1, 3)]);
    block_on(group.learn(1)).expect("Kafka answers");
    block_on(group.learn(0)).expect("Kafka answers");
    assert_eq!(watch.ends(), [0, 3, 0]);

    kafka.kill();
    let why = block_on(group.learn(1)).expect_err("nobody is there");
    assert!(why.contains("where ends ends"), "{why}");
}
