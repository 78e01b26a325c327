"""Scenes played with the Paho client; usage: paho_scenes.py SCENE VERSION PORT. An exception fails the test."""

import queue
import sys

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# A passing scene never waits this long.
DEADLINE_S = 60
HOST = "127.0.0.1"


class Client:
    """A client whose callbacks become queues."""

    def __init__(self, client_id, version, port, clean=True):
        self.v5 = version == "5"
        options = {"protocol": paho.MQTTv5 if self.v5 else paho.MQTTv311}
        if not self.v5:
            options["clean_session"] = clean
        self.paho = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, **options)
        self.connacks, self.subacks, self.acked = queue.Queue(), queue.Queue(), queue.Queue()
        self.messages = queue.Queue()
        self.paho.on_connect = lambda _c, _u, flags, code, _p: self.connacks.put((flags.session_present, code))
        self.paho.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subacks.put(codes)
        self.paho.on_publish = lambda _c, _u, mid, code, _p: self.acked.put((mid, code))
        self.paho.on_message = lambda _c, _u, message: self.messages.put(message)
        more = {}
        if self.v5:
            expiry = Properties(PacketTypes.CONNECT)
            expiry.SessionExpiryInterval = 0 if clean else 3600
            more = {"clean_start": clean, "properties": expiry}
        self.paho.connect(HOST, port, keepalive=30, **more)
        self.paho.loop_start()
        self.session_present, code = self.connacks.get(timeout=DEADLINE_S)
        assert not code.is_failure, code

    def subscribe(self, topic, qos):
        self.paho.subscribe(topic, qos)
        codes = self.subacks.get(timeout=DEADLINE_S)
        assert [code.value for code in codes] == [qos], codes

    def publish(self, topic, payload, qos, **more):
        mid = self.paho.publish(topic, payload, qos, **more).mid
        acked, code = self.acked.get(timeout=DEADLINE_S)
        assert acked == mid and not code.is_failure, (acked, mid, code)

    def message(self):
        return self.messages.get(timeout=DEADLINE_S)

    def leave(self):
        self.paho.disconnect()
        self.paho.loop_stop()


def every_qos(version, port):
    subscriber = Client("subscriber", version, port)
    publisher = Client("publisher", version, port)
    for qos in (0, 1, 2):
        topic = f"hall/{qos}"
        subscriber.subscribe(topic, qos)
        for payload in (b"", b"short", b"x" * 70_000):
            publisher.publish(topic, payload, qos)
            message = subscriber.message()
            assert (message.topic, message.payload, message.qos) == (topic, payload, qos), message.topic
    subscriber.leave()
    publisher.leave()


def resume(version, port):
    sleeper = Client("sleeper", version, port, clean=False)
    assert not sleeper.session_present
    sleeper.subscribe("queue/#", 2)
    sleeper.leave()
    publisher = Client("publisher", version, port)
    for number in range(100):
        publisher.publish("queue/x", str(number), 1 + number % 2)
    awake = Client("sleeper", version, port, clean=False)
    assert awake.session_present
    received = [int(awake.message().payload) for _ in range(100)]
    # Order holds for each QoS; between the two it is not promised.
    assert [n for n in received if n % 2] == list(range(1, 100, 2)), received
    assert [n for n in received if n % 2 == 0] == list(range(0, 100, 2)), received
    awake.leave()
    publisher.leave()


def properties(version, port):
    subscriber = Client("subscriber", version, port)
    subscriber.subscribe("ask", 1)
    publisher = Client("publisher", version, port)
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answer"
    sent.CorrelationData = b"\x00\x01"
    sent.PayloadFormatIndicator = 1
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    publisher.publish("ask", "wie spät?", 1, properties=sent)
    got = subscriber.message().properties
    for name in ("ContentType", "ResponseTopic", "CorrelationData", "PayloadFormatIndicator", "UserProperty"):
        assert getattr(got, name) == getattr(sent, name), name
    subscriber.leave()
    publisher.leave()


if __name__ == "__main__":
    scene, version, port = sys.argv[1:]
    {"every_qos": every_qos, "resume": resume, "properties": properties}[scene](version, int(port))
