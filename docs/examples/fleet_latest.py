#!/usr/bin/env python3
"""Reads a fleet's telemetry from Kafka, as another team would: a consumer group of its own.

    pip install confluent-kafka
    python3 fleet_latest.py --bootstrap 127.0.0.1:9092 --group my-team

Start it several times with one --group and the partitions are shared among them. The key of a
message is the device id, so one device's messages come to one member, in the order in which its
connection sent them. Offsets are committed after a batch was printed: a member that dies lets the
next one print that batch again (at least once). To count each message once, remember what was
done by (device, ts), as Tidewire's own store does.
"""

import argparse
import json
import sys

from confluent_kafka import Consumer, KafkaError

BATCH_MESSAGES = 500
BATCH_SECONDS = 1.0


def arguments():
    parser = argparse.ArgumentParser(description="print a fleet's telemetry from Kafka")
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", help="HOST:PORT of Kafka")
    parser.add_argument("--topic", default="tidewire.telemetry")
    parser.add_argument("--group", default="fleet-latest", help="name of your consumer group")
    parser.add_argument("--count", type=int, help="end after so many messages")
    return parser.parse_args()


def consumer(options):
    return Consumer(
        {
            "bootstrap.servers": options.bootstrap,
            "group.id": options.group,
            # A group that is new reads what is there already.
            "auto.offset.reset": "earliest",
            # Offsets are committed below, once a batch is done with.
            "enable.auto.commit": False,
            # Members that come and go move only the partitions that have to move.
            "partition.assignment.strategy": "cooperative-sticky",
        }
    )


def line(message):
    """One JSON object: who, when received, over which connection, and what was sent."""
    headers = {name: value.decode() for name, value in message.headers() or []}
    # The payload is the device's own bytes: it may be anything.
    try:
        payload = json.loads(message.value() or b"null")
    except ValueError:
        payload = {"unreadable": (message.value() or b"").hex()}
    return json.dumps(
        {
            "device": (message.key() or b"").decode(errors="replace"),
            "partition": message.partition(),
            "offset": message.offset(),
            "received": int(headers.get("tidewire-received", 0)),
            "source": headers.get("tidewire-source"),
            "payload": payload,
        }
    )


def main():
    options = arguments()
    reader = consumer(options)
    reader.subscribe([options.topic])
    left = options.count
    try:
        while left is None or left > 0:
            wanted = BATCH_MESSAGES if left is None else min(BATCH_MESSAGES, left)
            batch = reader.consume(wanted, BATCH_SECONDS)
            for message in batch:
                if message.error() is None:
                    print(line(message))
                    left = None if left is None else left - 1
                elif message.error().code() != KafkaError._PARTITION_EOF:
                    print(message.error(), file=sys.stderr)
            sys.stdout.flush()
            if batch:
                reader.commit(asynchronous=False)
    except KeyboardInterrupt:
        pass
    finally:
        reader.close()


if __name__ == "__main__":
    main()
