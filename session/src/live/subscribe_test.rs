use mqtt::{Packet, PacketId, QoS, ReasonCode, Subscribe, SubscribeOptions, Version};

use super::Effect;
use super::live_test::{NOW, connected_with};
use crate::durable::granted;
use crate::{Answer, Command, Config, PersistentPolicy, PersistentRule, Subscribed};

const AT_LEAST_ONCE: QoS = QoS::AtLeastOnce;

/// What became of a SUBSCRIBE.
#[derive(Debug, PartialEq)]
struct Judged {
    /// Of the SUBACK.
    reasons: Vec<ReasonCode>,
    /// Rules that were met.
    met: Vec<usize>,
    /// What the shard or the router was asked for.
    asked: Vec<(String, QoS)>,
}

#[test]
fn a_persistent_session_gets_what_the_rule_says_on_topics_that_overlap_it() {
    let cases = [
        (
            PersistentPolicy::Allow,
            ReasonCode::GrantedQoS1,
            Some(AT_LEAST_ONCE),
        ),
        (
            PersistentPolicy::Qos0,
            ReasonCode::Success,
            Some(QoS::AtMostOnce),
        ),
        (PersistentPolicy::Deny, ReasonCode::NotAuthorized, None),
    ];
    for (policy, reason, qos) in cases {
        for filter in ["fleet/#", "#", "+/a/t", "fleet/a/t"] {
            let judged = judge(&[policy], 60, Version::V5, &[(filter, AT_LEAST_ONCE)]);

            let asked = qos.map(|qos| (filter.to_owned(), qos));
            let expected = Judged {
                reasons: vec![reason],
                met: vec![0],
                asked: Vec::from_iter(asked),
            };
            assert_eq!(judged, expected, "{policy:?} {filter}");
        }
    }
}

#[test]
fn a_refusal_by_a_rule_is_the_one_failure_that_version_3_knows() {
    let filters = [("cmd/a", AT_LEAST_ONCE), ("fleet/#", QoS::ExactlyOnce)];

    let judged = judge(&[PersistentPolicy::Deny], 60, Version::V311, &filters);

    let reasons = [ReasonCode::GrantedQoS1, ReasonCode::UnspecifiedError];
    assert_eq!(judged.reasons, reasons);
    assert_eq!(judged.asked, [("cmd/a".to_owned(), AT_LEAST_ONCE)]);
}

#[test]
fn clean_sessions_qos_0_and_other_topics_meet_no_rule() {
    let deny = [PersistentPolicy::Deny];
    for (expiry_s, filter, qos) in [
        (0, "fleet/#", AT_LEAST_ONCE),
        (60, "fleet/#", QoS::AtMostOnce),
        (60, "cmd/#", AT_LEAST_ONCE),
        (60, "fleet/a/t/x", AT_LEAST_ONCE),
        (60, "$SYS/#", AT_LEAST_ONCE),
    ] {
        let judged = judge(&deny, expiry_s, Version::V5, &[(filter, qos)]);

        assert_eq!(judged.reasons, [granted(qos)], "{filter}");
        assert!(judged.met.is_empty(), "{filter}");
        assert_eq!(judged.asked, [(filter.to_owned(), qos)], "{filter}");
    }
}

#[test]
fn of_several_rules_the_strictest_holds() {
    let policies = [
        PersistentPolicy::Allow,
        PersistentPolicy::Deny,
        PersistentPolicy::Deny,
        PersistentPolicy::Qos0,
    ];

    let judged = judge(&policies, 60, Version::V5, &[("fleet/#", AT_LEAST_ONCE)]);

    assert_eq!(judged.met, [1]);
    assert_eq!(judged.reasons, [ReasonCode::NotAuthorized]);
}

/// Subscribes under rules for `fleet/+/t`, and answers as shard or router.
fn judge(
    policies: &[PersistentPolicy],
    expiry_s: u32,
    version: Version,
    filters: &[(&str, QoS)],
) -> Judged {
    let rule = |policy: &PersistentPolicy| PersistentRule {
        filter: "fleet/+/t".try_into().expect("a filter"),
        policy: *policy,
    };
    let config = Config {
        persistent_rules: policies.iter().map(rule).collect(),
        ..Config::default()
    };
    let mut live = connected_with(config, expiry_s, version);
    let wanted = |(filter, qos): &(&str, QoS)| {
        let options = SubscribeOptions {
            qos: *qos,
            ..SubscribeOptions::default()
        };
        ((*filter).try_into().expect("a filter"), options)
    };
    let packet = Subscribe {
        packet_id: PacketId::new(1).expect("not 0"),
        filters: filters.iter().map(wanted).collect(),
        subscription_id: None,
        user_properties: Vec::new(),
    };
    live.handle_packet(Packet::Subscribe(Box::new(packet)), NOW);
    let (mut reasons, mut met, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(effect) = live.poll_effect() {
        match effect {
            Effect::PersistentRule(at) => met.push(at),
            Effect::Send(Packet::SubAck(ack)) => reasons = ack.reasons,
            Effect::Subscribe {
                token,
                subscriptions,
            } => {
                asked.extend(subscriptions);
                live.handle_settled(token, ReasonCode::Success, NOW);
            }
            Effect::Propose { token, command } => {
                let Command::Subs(subs) = *command else {
                    panic!("{command:?}");
                };
                let granted = subs.filters.iter().map(|(_, subscription)| Subscribed {
                    reason: granted(subscription.options.qos),
                    replay: false,
                    version: 1,
                    membership: 0,
                });
                let answer = Answer::Subscribed(granted.collect());
                asked.extend(subs.filters);
                live.handle_answer(token, answer, NOW);
            }
            Effect::Retained { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let asked = asked.into_iter();
    let asked = asked.map(|(filter, s)| (filter.to_string(), s.options.qos));
    Judged {
        reasons,
        met,
        asked: asked.collect(),
    }
}
