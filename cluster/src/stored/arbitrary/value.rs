//! Any value that commands and rows are made of.

use bytes::Bytes;
use cluster_core::EpochView;
use mqtt::{
    ClientId, Filter, PublishProperties, QoS, RetainHandling, SubscribeOptions, Text, Topic, Will,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use session::{
    ConnectionId, Epoch, Member, Message, Origin, OriginKind, Owner, Stamp, Subscription, WallMs,
};

pub(super) fn text() -> impl Strategy<Value = Text> {
    "[a-zé0-9 ]{0,12}".prop_map(|text| Text::try_from(text.as_str()).unwrap())
}

pub(crate) fn client() -> impl Strategy<Value = ClientId> {
    "[a-c]{1,2}".prop_map(|text| ClientId::try_from(text.as_str()).unwrap())
}

pub(super) fn topic() -> impl Strategy<Value = Topic> {
    "[a-c]/[a-cö]{0,2}".prop_map(|text| Topic::try_from(text.as_str()).unwrap())
}

pub(crate) fn filter() -> impl Strategy<Value = Filter> {
    "([$]share/g/)?[a-c+]/([a-c]|[+]|#)".prop_map(|text| Filter::try_from(text.as_str()).unwrap())
}

pub(super) fn shared() -> impl Strategy<Value = Filter> {
    "[$]share/g{1,2}/[a-c+]/([a-c]|[+]|#)".prop_map(|text| Filter::try_from(text.as_str()).unwrap())
}

pub(super) fn payload() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

pub(crate) fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

pub(super) fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

pub(super) fn wall() -> impl Strategy<Value = WallMs> {
    any::<u64>().prop_map(WallMs)
}

prop_compose! {
    pub(super) fn properties()(
        payload_is_utf8 in any::<Option<bool>>(),
        message_expiry_s in any::<Option<u32>>(),
        response_topic in option::of(topic()),
        correlation_data in option::of(payload()),
        content_type in option::of(text()),
        user_properties in vec((text(), text()), 0..3),
    ) -> PublishProperties {
        PublishProperties {
            payload_is_utf8,
            message_expiry_s,
            response_topic,
            correlation_data,
            content_type,
            user_properties,
        }
    }
}

prop_compose! {
    pub(super) fn will()(
        topic in topic(),
        payload in payload(),
        qos in qos(),
        retain in any::<bool>(),
        delay_s in any::<Option<u32>>(),
        properties in option::of(properties().prop_map(Box::new)),
    ) -> Will {
        Will { topic, payload, qos, retain, delay_s, properties }
    }
}

prop_compose! {
    pub(crate) fn message()(
        topic in topic(),
        payload in payload(),
        qos in qos(),
        retain in any::<bool>(),
        properties in option::of(properties().prop_map(Box::new)),
        publisher in option::of(client()),
        received in wall(),
        expiry in option::of(wall()),
    ) -> Message {
        Message { topic, payload, qos, retain, properties, publisher, received, expiry }
    }
}

prop_compose! {
    pub(super) fn subscription()(
        qos in qos(),
        no_local in any::<bool>(),
        retain_as_published in any::<bool>(),
        retain_handling in prop_oneof![
            Just(RetainHandling::Send),
            Just(RetainHandling::SendIfNew),
            Just(RetainHandling::DoNotSend),
        ],
        id in any::<Option<std::num::NonZeroU32>>(),
    ) -> Subscription {
        let options = SubscribeOptions { qos, no_local, retain_as_published, retain_handling };
        Subscription { options, id }
    }
}

prop_compose! {
    pub(crate) fn origin()(
        client in client(),
        kind in prop_oneof![Just(OriginKind::Session), Just(OriginKind::Will)],
        incarnation in epoch(),
        n in any::<u64>(),
        floor in any::<u64>(),
    ) -> Origin {
        Origin { client, kind, incarnation, n, floor }
    }
}

prop_compose! {
    pub(super) fn stamp()(
        publisher in option::of(client()),
        epoch in epoch(),
        seq in any::<u64>(),
    ) -> Stamp {
        Stamp { publisher, epoch, seq }
    }
}

prop_compose! {
    pub(super) fn owner()(
        numbers in any::<[u64; 3]>(),
        receive_maximum in any::<u16>(),
    ) -> Owner {
        Owner {
            node_epoch: session::NodeEpoch(numbers[0]),
            connection: ConnectionId(numbers[1]),
            epoch: Epoch(numbers[2]),
            receive_maximum,
        }
    }
}

prop_compose! {
    pub(super) fn member()(
        joined in epoch(),
        owner in option::of(owner()),
        subscription in subscription(),
        persistent in any::<bool>(),
    ) -> Member {
        Member { joined, owner, subscription, persistent }
    }
}

prop_compose! {
    pub(super) fn epochs()(
        index in any::<u64>(),
        begun in any::<u64>(),
        current in btree_set(any::<u64>().prop_map(cluster_core::NodeEpoch), 0..4),
    ) -> EpochView {
        EpochView { index, begun: cluster_core::NodeEpoch(begun), current }
    }
}
