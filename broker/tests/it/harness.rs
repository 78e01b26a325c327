//! A node on free ports and a client that speaks through our codec.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mqtt::{
    Ack, Connect, Decoder, Disconnect, Filter, Limits, Packet, PacketId, Publish, QoS, ReasonCode,
    Subscribe, SubscribeOptions, Topic, Version, Will,
};
use runtime::{Clock, ManualClock, SystemClock};
use storage::fs::FaultFs;
use tempfile::TempDir;
use tidewire_broker::{Config, Defects, Environment, Node, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

/// How long a condition may take before the test is given up as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a future that must end.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("{what} did not come"))
}

pub(crate) struct TestNode {
    pub(crate) node: Node,
    pub(crate) folder: TempDir,
}

/// A configuration on free loopback ports with two io threads and no telemetry.
pub(crate) fn config() -> Config {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        io_threads: 2,
        no_telemetry: true,
        ..Config::default()
    };
    config.mqtt.listen = loopback;
    config.admin.listen = loopback;
    config.cluster.listen = loopback;
    config
}

pub(crate) async fn start(config: Config) -> TestNode {
    start_with(config, Arc::new(SystemClock::default()), Defects::default()).await
}

pub(crate) async fn start_at(config: Config, clock: &ManualClock) -> TestNode {
    start_with(config, Arc::new(clock.clone()), Defects::default()).await
}

/// Starts a node on a disk of the fault layer; whoever waits there hears that it can promise nothing
/// more, once.
pub(crate) async fn start_on(
    fs: &FaultFs,
    config: Config,
    defects: Defects,
) -> Result<(TestNode, Arc<Notify>), StartError> {
    let fatal = Arc::new(Notify::new());
    let told = Arc::clone(&fatal);
    let environment = Environment {
        fs: Arc::new(fs.clone()),
        on_fatal: Arc::new(move |_| told.notify_one()),
        defects,
        ..Environment::default()
    };
    let node = Node::start_in(config, environment).await?;
    Ok((TestNode::without_folder(node), fatal))
}

/// Starts a node on the folder of one that has stopped.
pub(crate) async fn start_again(mut config: Config, folder: TempDir) -> TestNode {
    config.data = folder.path().join("data");
    let node = Node::start(config).await.expect("the node starts again");
    TestNode { node, folder }
}

pub(crate) async fn start_with(
    mut config: Config,
    clock: Arc<dyn Clock>,
    defects: Defects,
) -> TestNode {
    let folder = tempfile::tempdir().expect("a folder");
    config.data = folder.path().join("data");
    let environment = Environment {
        clock,
        defects,
        ..Environment::default()
    };
    let node = Node::start_in(config, environment)
        .await
        .expect("the node starts");
    TestNode { node, folder }
}

impl TestNode {
    /// A node whose data folder is not on this machine's disk.
    pub(crate) fn without_folder(node: Node) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { node, folder }
    }

    /// A client that is connected with a clean session, MQTT 5.
    pub(crate) async fn clean(&self, id: &str) -> Client {
        let (client, _) = self.connect(Dial::v5(id)).await;
        client
    }

    pub(crate) async fn connect(&self, dial: Dial) -> (Client, bool) {
        let mut client = self.socket(dial.0.version).await;
        client.send(&dial.packet()).await;
        let present = client.connack().await;
        (client, present)
    }

    pub(crate) async fn socket(&self, version: Version) -> Client {
        let socket = TcpStream::connect(self.node.mqtt).await.expect("listens");
        Self::client(socket, version)
    }

    /// A client whose side of the kernel holds little of what it does not read.
    pub(crate) async fn narrow_socket(&self, version: Version) -> Client {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a TCP socket");
        let socket = socket.connect(self.node.mqtt).await.expect("listens");
        Self::client(socket, version)
    }

    fn client(socket: TcpStream, version: Version) -> Client {
        Client::over(socket, version)
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.send("GET", path, "Accept: */*", "").await
    }

    /// Posts JSON.
    pub(crate) async fn post(&self, path: &str, json: &str) -> (u16, String) {
        let header = "Content-Type: application/json";
        self.send("POST", path, header, json).await
    }

    /// One HTTP exchange: the status and the body.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        header: &str,
        body: &str,
    ) -> (u16, String) {
        let mut socket = TcpStream::connect(self.node.admin).await.expect("listens");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        soon("an HTTP answer", socket.read_to_string(&mut answer))
            .await
            .expect("text");
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status.expect("a status line"), body.to_owned())
    }

    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in {text}"))
    }

    /// Waits until a metric fits.
    pub(crate) async fn until(&self, name: &str, fits: impl Fn(u64) -> bool) -> u64 {
        let mut last = 0;
        let looking = async {
            loop {
                last = self.metric(name).await;
                if fits(last) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let result = tokio::time::timeout(PATIENCE, looking).await;
        assert!(result.is_ok(), "{name} stays {last}");
        last
    }

    pub(crate) async fn stop(self) -> TempDir {
        soon("the end of the node", self.node.stop()).await;
        self.folder
    }
}

/// How a client connects.
pub(crate) struct Dial(pub(crate) Connect);

impl Dial {
    pub(crate) fn v5(id: &str) -> Self {
        Self::new(id, Version::V5)
    }

    pub(crate) fn v311(id: &str) -> Self {
        Self::new(id, Version::V311)
    }

    fn new(id: &str, version: Version) -> Self {
        Self(Connect {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id: id.try_into().expect("a client id"),
            will: None,
            user_name: None,
            password: None,
            properties: mqtt::ConnectProperties::default(),
        })
    }

    /// Goes on with a session, and leaves one behind.
    pub(crate) fn persistent(mut self) -> Self {
        self.0.clean_start = false;
        if self.0.version == Version::V5 {
            self.0.properties.session_expiry_s = Some(3_600);
        }
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.0.keep_alive_s = seconds;
        self
    }

    pub(crate) fn will(mut self, topic: &str, retain: bool, delay_s: Option<u32>) -> Self {
        self.0.will = Some(Box::new(Will {
            topic: topic.try_into().expect("a topic"),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain,
            delay_s,
            properties: None,
        }));
        self
    }

    pub(crate) fn packet(self) -> Packet {
        Packet::Connect(Box::new(self.0))
    }
}

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    version: Version,
    decoder: Decoder,
    buffer: BytesMut,
    next_id: u16,
}

impl Client {
    pub(crate) fn over(socket: TcpStream, version: Version) -> Self {
        socket.set_nodelay(true).expect("a TCP socket");
        Self {
            socket,
            version,
            decoder: Decoder::client(version, Limits::default()),
            buffer: BytesMut::new(),
            next_id: 1,
        }
    }

    pub(crate) fn encode(&self, packets: &[Packet]) -> BytesMut {
        let mut out = BytesMut::new();
        for packet in packets {
            mqtt::encode(packet, self.version, &mut out);
        }
        out
    }

    pub(crate) async fn send(&mut self, packet: &Packet) {
        let bytes = self.encode(std::slice::from_ref(packet));
        self.raw(&bytes).await;
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("the node reads");
    }

    /// Sends to a node that may be gone; says whether it is not, as far as is known.
    pub(crate) async fn try_send(&mut self, packet: &Packet) -> bool {
        let bytes = self.encode(std::slice::from_ref(packet));
        self.socket.write_all(&bytes).await.is_ok()
    }

    /// The next packet of a node that may end at any moment, or `None` once it has. Cancel-safe.
    pub(crate) async fn try_next(&mut self) -> Option<Packet> {
        loop {
            let packet = self.decoder.decode(&mut self.buffer);
            if let Some(packet) = packet.expect("the node sends packets") {
                return Some(packet);
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next packet, or `None` once the node has closed.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        let reading = async {
            loop {
                let packet = self.decoder.decode(&mut self.buffer);
                if let Some(packet) = packet.expect("the node sends packets") {
                    return Some(packet);
                }
                match self.socket.read_buf(&mut self.buffer).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => panic!("the node reset the connection: {error}"),
                }
            }
        };
        soon("a packet", reading).await
    }

    pub(crate) async fn packet(&mut self) -> Packet {
        self.next().await.expect("the connection is open")
    }

    /// Whether a CONNACK says that the session goes on; it must accept.
    pub(crate) async fn connack(&mut self) -> bool {
        match self.packet().await {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.reason, ReasonCode::Success);
                ack.session_present
            }
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    pub(crate) async fn publication(&mut self) -> Publish {
        match self.packet().await {
            Packet::Publish(publish) => publish,
            other => panic!("no PUBLISH but {other:?}"),
        }
    }

    /// The payload of the next PUBLISH as text; acknowledges it up to QoS 1.
    pub(crate) async fn text(&mut self) -> String {
        let publish = self.publication().await;
        if let Some(id) = publish.packet_id
            && publish.qos == QoS::AtLeastOnce
        {
            self.send(&Packet::PubAck(ack(id))).await;
        }
        String::from_utf8(publish.payload.to_vec()).expect("text")
    }

    pub(crate) async fn reasons(&mut self) -> Vec<ReasonCode> {
        match self.packet().await {
            Packet::SubAck(ack) | Packet::UnsubAck(ack) => ack.reasons,
            other => panic!("no SUBACK but {other:?}"),
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let reasons = self.subscribe_with(filter, options(qos)).await;
        assert!(!reasons[0].is_error(), "{reasons:?}");
    }

    pub(crate) async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
    ) -> Vec<ReasonCode> {
        let packet = subscribe(self.take_id(), &[(filter, options)]);
        self.send(&packet).await;
        self.reasons().await
    }

    /// Publishes and takes the whole exchange to its end.
    pub(crate) async fn publish(&mut self, topic: &str, qos: QoS, payload: &str) {
        self.publish_as(publish(topic, qos, payload)).await;
    }

    pub(crate) async fn publish_as(&mut self, mut publish: Publish) {
        let qos = publish.qos;
        if qos != QoS::AtMostOnce {
            publish.packet_id = Some(self.take_id());
        }
        self.send(&Packet::Publish(publish)).await;
        match qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => {
                let answer = self.packet().await;
                assert!(matches!(answer, Packet::PubAck(_)), "{answer:?}");
            }
            QoS::ExactlyOnce => {
                let Packet::PubRec(rec) = self.packet().await else {
                    panic!("no PUBREC");
                };
                self.send(&Packet::PubRel(ack(rec.packet_id))).await;
                let answer = self.packet().await;
                assert!(matches!(answer, Packet::PubComp(_)), "{answer:?}");
            }
        }
    }

    /// Asks for a PINGRESP, which must be the next packet.
    pub(crate) async fn ping(&mut self) {
        self.send(&Packet::PingReq).await;
        let answer = self.packet().await;
        assert_eq!(answer, Packet::PingResp);
    }

    /// The reason of the DISCONNECT that is the last thing the node says.
    pub(crate) async fn disconnected(&mut self) -> ReasonCode {
        let reason = match self.packet().await {
            Packet::Disconnect(disconnect) => disconnect.reason,
            other => panic!("no DISCONNECT but {other:?}"),
        };
        assert_eq!(self.next().await, None);
        reason
    }

    pub(crate) async fn leave(mut self, reason: ReasonCode) {
        let disconnect = Disconnect {
            reason,
            ..Disconnect::default()
        };
        self.send(&Packet::Disconnect(Box::new(disconnect))).await;
        assert_eq!(self.next().await, None);
    }

    pub(crate) fn take_id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_id).expect("not 0");
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }
}

pub(crate) fn ack(packet_id: PacketId) -> Ack {
    Ack {
        packet_id,
        reason: ReasonCode::Success,
        properties: None,
    }
}

pub(crate) fn options(qos: QoS) -> SubscribeOptions {
    SubscribeOptions {
        qos,
        ..SubscribeOptions::default()
    }
}

pub(crate) fn subscribe(packet_id: PacketId, filters: &[(&str, SubscribeOptions)]) -> Packet {
    let filter = |text: &str| Filter::try_from(text).expect("a filter");
    Packet::Subscribe(Box::new(Subscribe {
        packet_id,
        filters: filters.iter().map(|(f, o)| (filter(f), *o)).collect(),
        subscription_id: None::<NonZeroU32>,
        user_properties: Vec::new(),
    }))
}

pub(crate) fn publish(topic: &str, qos: QoS, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Topic::try_from(topic).expect("a topic"),
        packet_id: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        topic_alias: None,
        subscription_ids: mqtt::SubscriptionIds::new(),
        properties: None,
    }
}

pub(crate) const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
