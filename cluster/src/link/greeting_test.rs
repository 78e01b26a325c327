use bytes::BytesMut;
use cluster_core::{FeatureLevel, FolderId, NodeId, StartCount};
use proptest::prelude::*;

use super::greeting::*;
use super::lane::{Grant, Lane};

fn an_identity() -> impl Strategy<Value = NodeIdentity> {
    any::<(u128, u128, u64, u32, u16, u16)>().prop_map(
        |(cluster, folder, start, node, level, understood)| NodeIdentity {
            cluster: ClusterId(cluster),
            node: NodeId(node),
            folder: FolderId(folder),
            start: StartCount(start),
            level: FeatureLevel(level),
            understood: FeatureLevel(understood),
        },
    )
}

fn a_greeting() -> impl Strategy<Value = Greeting> {
    let hello = (an_identity(), 1_u8..5, any::<(u32, u128)>()).prop_map(
        |(identity, lane, (sought, nonce))| {
            Greeting::Hello(Hello {
                identity,
                lane: Lane::of_code(lane).expect("one of four"),
                sought: NodeId(sought),
                nonce,
            })
        },
    );
    let welcome = (an_identity(), any::<(u128, u32, u32, u64, u64)>()).prop_map(
        |(identity, (nonce, requests, payload_bytes, request_bytes, reply_bytes))| {
            let grant = Grant {
                requests,
                payload_bytes,
                request_bytes,
                reply_bytes,
            };
            Greeting::Welcome(Welcome {
                identity,
                nonce,
                grant,
            })
        },
    );
    let refusal = (codes(), any::<(u128, u128)>()).prop_map(|(code, (offered, expected))| {
        Greeting::Refusal(Refusal::new(code, offered, expected))
    });
    let wish = any::<(u128, u128, u128, u32, u16)>().prop_map(
        |(cluster, folder, nonce, node, understood)| {
            Greeting::Wish(Wish {
                cluster: (cluster % 3 != 0).then_some(ClusterId(cluster)),
                folder: FolderId(folder),
                node: (node % 3 != 0).then_some(NodeId(node)),
                understood: FeatureLevel(understood),
                nonce,
            })
        },
    );
    let admission = any::<(u128, u32, u32)>().prop_map(|(nonce, payload_bytes, payload_crc)| {
        Greeting::Admission(Admission {
            nonce,
            payload_bytes,
            payload_crc,
        })
    });
    prop_oneof![hello, welcome, refusal, wish, admission]
}

fn codes() -> impl Strategy<Value = RefusalCode> {
    prop_oneof![
        Just(RefusalCode::Version),
        Just(RefusalCode::Folder),
        Just(RefusalCode::Nonce),
        Just(RefusalCode::Member),
        Just(RefusalCode::Full),
        Just(RefusalCode::Other(999)),
    ]
}

proptest! {
    #[test]
    fn a_greeting_comes_back_as_it_went_however_it_is_cut(
        greeting in a_greeting(),
        step in 1_usize..200,
        rest in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let bytes = greeting.encode();
        let mut buffer = BytesMut::new();
        let mut found = None;
        for chunk in bytes.chunks(step) {
            prop_assert_eq!(found, None);
            buffer.extend_from_slice(chunk);
            found = Greeting::poll_decode(&mut buffer).expect("good");
        }
        prop_assert_eq!(found, Some(greeting));
        prop_assert!(buffer.is_empty());

        let mut buffer = BytesMut::from(&bytes[..]);
        buffer.extend_from_slice(&rest);
        prop_assert_eq!(Greeting::poll_decode(&mut buffer), Ok(Some(greeting)));
        prop_assert_eq!(&buffer[..], &rest[..]);
    }

    #[test]
    fn a_changed_bit_never_passes_for_another_greeting(
        greeting in a_greeting(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut bytes = BytesMut::from(&greeting.encode()[..]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(Greeting::poll_decode(&mut bytes), Err(_) | Ok(None)));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Greeting::poll_decode(&mut BytesMut::from(&bytes[..]));
        let magic = [&b"TIDELINK"[..], &bytes].concat();
        let _ = Greeting::poll_decode(&mut BytesMut::from(&magic[..]));
    }
}

#[test]
fn what_speaks_another_protocol_is_known_by_its_first_byte() {
    let refusal =
        Greeting::poll_decode(&mut BytesMut::from("GET / HTTP/1.1\r\n")).expect_err("no greeting");

    assert_eq!(refusal.code, RefusalCode::Garbage);
    assert_eq!(
        refusal.to_string(),
        "what came is no greeting; it begins with [47, 45, 54, 20, 2f, 20, 48, 54]"
    );
    assert!(Greeting::poll_decode(&mut BytesMut::from("X")).is_err());
}

#[test]
fn of_another_version_only_the_number_and_a_refusal_are_read() {
    let identity = NodeIdentity {
        cluster: ClusterId(1),
        node: NodeId(1),
        folder: FolderId(1),
        start: StartCount(1),
        level: FeatureLevel(1),
        understood: FeatureLevel(1),
    };
    let hello = Greeting::Hello(Hello {
        identity,
        lane: Lane::Control,
        sought: NodeId(2),
        nonce: 3,
    });
    let refusal = Refusal::new(RefusalCode::Version, 1_u8, 9_u8);

    let of_version_9 = |greeting: Greeting| {
        let mut bytes = BytesMut::from(&greeting.encode()[..]);
        bytes[8] = 9;
        let crc = crc32c::crc32c(&[&bytes[..16], &bytes[20..]].concat());
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        Greeting::poll_decode(&mut bytes)
    };
    assert_eq!(
        of_version_9(hello),
        Err(Refusal::new(RefusalCode::Version, 9_u8, 1_u8))
    );
    assert_eq!(
        of_version_9(Greeting::Refusal(refusal)),
        Ok(Some(Greeting::Refusal(refusal)))
    );
}

#[test]
fn the_bytes_of_a_hello_are_those_of_the_format() {
    let identity = NodeIdentity {
        cluster: ClusterId(0x11),
        node: NodeId(0x33),
        folder: FolderId(0x22),
        start: StartCount(0x44),
        level: FeatureLevel(0x55),
        understood: FeatureLevel(0x66),
    };
    let bytes = Greeting::Hello(Hello {
        identity,
        lane: Lane::Bulk,
        sought: NodeId(0x77),
        nonce: 0x88,
    })
    .encode();

    assert_eq!(bytes.len(), 92);
    assert_eq!(bytes[..8], *b"TIDELINK");
    assert_eq!(bytes[8..16], [1, 0, 1, 0, 72, 0, 0, 0]);
    let fields = [
        (20, 0x11),
        (36, 0x22),
        (52, 0x44),
        (60, 0x33),
        (64, 0x55),
        (66, 0x66),
        (68, 0x88),
        (84, 0x77),
        (88, 3),
    ];
    for (at, value) in fields {
        assert_eq!(bytes[at], value, "offset {at}");
    }
    let set = bytes[20..].iter().filter(|byte| **byte != 0).count();
    assert_eq!(set, fields.len(), "and zero elsewhere");
}
