"""Says how long a topic's metadata shows no live leader: from a line on standard input, after which
broker 1 is killed, until every partition has another leader."""

import sys
import time

from confluent_kafka.admin import AdminClient

bootstrap, topic = sys.argv[1:]
client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
client.list_topics(topic, timeout=10)
print("ready", flush=True)
sys.stdin.readline()
killed = time.monotonic()
while True:
    try:
        partitions = client.list_topics(topic, timeout=1).topics[topic].partitions.values()
        if partitions and all(one.leader not in (-1, 1) for one in partitions):
            break
    except Exception:  # The broker that was asked is the dead one.
        pass
    time.sleep(0.05)
print(f"{time.monotonic() - killed:.3f}", flush=True)
