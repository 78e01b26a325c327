use super::*;

#[test]
fn the_printed_configuration_reads_back_as_itself() {
    let config = Config::default();
    let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
    assert_eq!(again, config);
}

#[test]
fn an_unknown_key_is_named() {
    let error = toml::from_str::<Config>("[mqtt]\nlisten_on = 5").expect_err("unknown");
    assert!(error.to_string().contains("listen_on"), "{error}");
}

#[test]
fn device_templates_are_checked_before_anything_starts() {
    let mut config = Config::default();
    let default = config.cluster.templates().expect("the default");
    assert_eq!(Vec::from_iter(default.iter()), ["cmd/{client_id}/#"]);
    config.cluster.device_templates = Some(vec!["cmd/{device}/#".to_owned()]);
    let error = config.validate().expect_err("no level is the client's");
    let expected = "cluster.device_templates: device template \"cmd/{device}/#\": exactly one";
    assert!(error.to_string().starts_with(expected), "{error}");
    config.cluster.device_templates = Some(Vec::new());
    config.validate().expect("none is needed");
    let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
    assert_eq!(again, config);
}

#[test]
fn stream_rules_are_checked_before_anything_starts() {
    let mut config: Config = toml::from_str(
        "[[telemetry.streams]]
         name = 'gateways'
         filter = 'site/+/#'
         key = '{2}'",
    )
    .expect("each key is known");
    let error = config.validate().expect_err("there is no second +");
    let expected = "telemetry.streams: stream \"gateways\": key = \"{2}\" names nothing";
    assert!(error.to_string().starts_with(expected), "{error}");
    config.no_telemetry = true;
    config.validate().expect("no rule is used");
}

#[test]
fn the_example_of_the_manual_is_accepted_and_begins_with_the_defaults() {
    let manual = include_str!("../../../docs/streams.md");
    let example = manual
        .split("```")
        .find_map(|part| part.strip_prefix("toml\n"));
    let config: Config =
        toml::from_str(example.expect("the manual has one")).expect("each key is known");

    let streams = config.streams().expect("no rule is refused");

    let topics: Vec<_> = streams.outlets().iter().map(|one| &*one.topic).collect();
    assert_eq!(
        topics,
        ["tidewire.telemetry", "plant.alarms", "tidewire.debug"]
    );
    let first = StreamRule {
        topic: None,
        ..config.telemetry.streams[0].clone()
    };
    assert_eq!(first, StreamRule::default());
    assert_eq!(
        config.telemetry.streams[0].topic.as_deref(),
        Some("tidewire.telemetry")
    );
}

#[test]
fn a_node_that_joins_others_takes_no_packets_that_their_links_do_not() {
    let mut config = Config::default();
    config.mqtt.packet_bytes_limit = (2 << 20) + 1;
    config.validate().expect("a lone node may");
    config.cluster.join = vec!["127.0.0.1:7000".to_owned()];
    let error = config.validate().expect_err("others are to get it");
    assert!(
        error
            .to_string()
            .contains("= 2097153: must be at most 2097152"),
        "{error}"
    );
    config.mqtt.packet_bytes_limit = 2 << 20;
    config.validate().expect("it fits");
}

#[test]
fn an_address_beyond_loopback_needs_allow_anonymous() {
    let mut config = Config::default();
    config.mqtt.listen = SocketAddr::from(([0, 0, 0, 0], 1883));
    let error = config
        .validate()
        .expect_err("nobody would be authenticated");
    assert!(error.to_string().contains("0.0.0.0:1883"), "{error}");
    config.allow_anonymous = true;
    config.validate().expect("said aloud");
}

#[test]
fn an_address_for_nodes_beyond_loopback_needs_certificates() {
    let mut config = Config::default();
    config.cluster.listen = SocketAddr::from(([192, 0, 2, 1], 7000));
    let error = config.validate().expect_err("whoever comes could speak");
    let expected = "cluster.listen = 192.0.2.1:7000: without certificates";
    assert!(error.to_string().starts_with(expected), "{error}");
    let tls = "[cluster.tls]\nca = 'ca.pem'\ncert = 'node.pem'\nkey = 'node.key'";
    let with_tls: Config = toml::from_str(tls).expect("each key is known");
    config.cluster.tls = with_tls.cluster.tls;
    config
        .validate()
        .expect("whoever comes shows a certificate");
    let again: Config = toml::from_str(&config.to_toml()).expect("it was printed by us");
    assert_eq!(again, config);

    config.cluster.listen = SocketAddr::from(([0, 0, 0, 0], 7000));
    let error = config.validate().expect_err("nobody can dial that");
    assert!(error.to_string().contains("cluster.advertise"), "{error}");
    config.cluster.advertise = Some("node-1.example:7000".to_owned());
    config.validate().expect("peers know where");
}
