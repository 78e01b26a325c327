//! Topics of a real Kafka are asked for, created and refused.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::*;
use crate::kafka::test_kafka;

const WAIT: Duration = Duration::from_secs(10);

fn check(settings: &Settings, topic: &str, partitions: u16) -> Result<Contacted, ContactError> {
    check_topic(settings, topic, partitions, 70_000, WAIT)
}

fn admin(config: &ClientConfig) -> AdminClient<DefaultClientContext> {
    config.create().expect("good settings")
}

#[test]
fn a_missing_topic_is_created_as_the_node_needs_it() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };
    let settings = kafka.settings();

    let first = check(&settings, "contact-created", 5).expect("it is created");
    let again = check(&settings, "contact-created", 5).expect("it is there");

    assert_eq!(first, again);
    assert!(!first.cluster_id.is_empty());
    let topic = ResourceSpecifier::Topic("contact-created");
    let told = block_on(admin(&settings.client()).describe_configs(&[topic], &AdminOptions::new()));
    let told = told.expect("it answers").remove(0).expect("it is known");
    let bytes_max = told.get("max.message.bytes").expect("every topic has it");
    assert_eq!(bytes_max.value.as_deref(), Some("70000"));
}

#[test]
fn another_number_of_partitions_is_refused_and_both_are_named() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };
    let settings = kafka.settings();
    check(&settings, "contact-three", 3).expect("it is created");

    let error = check(&settings, "contact-three", 64).expect_err("3 are not 64");

    let topic = "contact-three".to_owned();
    let (has, wants) = (3, 64);
    assert_eq!(error, ContactError::Partitions { topic, has, wants });
    assert!(error.is_refusal());
    let text = error.to_string();
    assert!(
        text.contains("has 3") && text.contains("64 partitions"),
        "{text}"
    );
}

#[test]
fn nodes_that_create_at_once_agree_and_one_that_wants_another_number_is_refused() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };
    let settings = kafka.settings();

    for round in 0..5 {
        let topic = format!("contact-race-{round}");
        let results: Vec<_> = std::thread::scope(|scope| {
            let wants = [2, 2, 7, 7].into_iter();
            let asking = |wants| {
                scope.spawn({
                    let (settings, topic) = (&settings, &topic);
                    move || (wants, check(settings, topic, wants))
                })
            };
            let asking: Vec<_> = wants.map(asking).collect();
            let results = asking.into_iter().map(|one| one.join().expect("no panic"));
            results.collect()
        });

        let client: BaseConsumer = settings.client().create().expect("good settings");
        let metadata = client
            .fetch_metadata(Some(&topic), WAIT)
            .expect("it answers");
        let has = metadata.topics()[0].partitions().len();
        assert!(has == 2 || has == 7, "{has}");
        for (wants, result) in results {
            match result {
                Ok(_) => assert_eq!(usize::from(wants), has),
                Err(ContactError::Partitions { .. }) => assert_ne!(usize::from(wants), has),
                // A topic of which a broker has not heard yet; the next look is better.
                Err(error) => assert!(!error.is_refusal(), "{error}"),
            }
        }
    }
}

#[test]
fn asking_does_not_let_kafka_create_a_topic() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };
    let mut settings = kafka.settings();
    // More replicas than there are brokers: asked for, never made.
    settings.replication = Some(3);

    let error = check(&settings, "contact-never", 2).expect_err("one broker holds no three");

    assert!(error.to_string().contains("contact-never"), "{error}");
    let client: BaseConsumer = settings.client().create().expect("good settings");
    let metadata = client.fetch_metadata(None, WAIT).expect("it answers");
    let names = metadata.topics().iter().map(|topic| topic.name());
    assert!(!names.collect::<Vec<_>>().contains(&"contact-never"));
}

#[test]
fn a_topic_that_cannot_be_is_refused() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };

    let error = check(&kafka.settings(), "no topic!", 2).expect_err("no name of a topic");

    assert!(
        matches!(error, ContactError::NotCreated { .. }),
        "{error:?}"
    );
    assert!(error.is_refusal());
}

#[test]
fn a_kafka_that_is_not_there_is_away() {
    let settings = Settings {
        // Nothing listens on the port for a discarding server.
        bootstrap: Some("127.0.0.1:9".to_owned()),
        ..Settings::default()
    };

    let error = check_topic(&settings, "any", 2, 1_000, Duration::from_millis(300));

    let error = error.expect_err("nobody answers");
    assert!(matches!(error, ContactError::Away(_)), "{error:?}");
    assert!(!error.is_refusal());
}

#[test]
fn a_topic_made_elsewhere_is_taken_as_it_is() {
    let Some(kafka) = test_kafka::or_skip() else {
        return;
    };
    let settings = kafka.settings();
    let new = NewTopic::new("contact-foreign", 4, TopicReplication::Fixed(1));
    let made = block_on(admin(&settings.client()).create_topics([&new], &AdminOptions::new()));
    made.expect("it answers").remove(0).expect("it is made");

    check(&settings, "contact-foreign", 4).expect("4 are 4");
}
