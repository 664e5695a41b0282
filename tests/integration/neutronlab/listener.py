"""Writes every RPC message that passes RabbitMQ to a file, one JSON object a line.

A program of its own, run by the interpreter that has Neutron (and so an AMQP library) and inside
the control plane's namespace::

    python listener.py 10.201.0.254 5672 messages.jsonl

It reads RabbitMQ's firehose: each message once as it is published (to an exchange, with a routing
key) and once for every queue from which it is delivered. Requests like "is there a queue
``q-plugin`` with a consumer?" come by standard input, one name a line, and the answer, a number of
consumers (-1: no such queue), goes to standard output.
"""

import json
import sys
import threading
import time
from typing import Any, TextIO

import amqp  # of the interpreter that runs it

_TRACE_EXCHANGE = "amq.rabbitmq.trace"


def main() -> None:
    """Listen until standard input is closed."""
    host, port, path = sys.argv[1:]
    with open(path, "a", encoding="utf-8") as output:
        connection = _connect(host, port)
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True, auto_delete=True).queue
        channel.queue_bind(queue, _TRACE_EXCHANGE, "publish.#")
        channel.queue_bind(queue, _TRACE_EXCHANGE, "deliver.#")
        channel.basic_consume(queue, callback=lambda message: _note(message, output), no_ack=True)
        print("ready", flush=True)
        threading.Thread(target=_answer, args=(host, port), daemon=True).start()
        while True:
            connection.drain_events()


def _connect(host: str, port: str) -> Any:
    connection = amqp.Connection(f"{host}:{port}", userid="guest", password="guest")
    connection.connect()
    return connection


def _note(message: Any, output: TextIO) -> None:
    kind, _, where = message.delivery_info["routing_key"].partition(".")
    headers = message.headers
    line: dict[str, Any] = {
        "time": time.time(),
        "kind": kind,
        "exchange": headers["exchange_name"],
        "routing_key": headers["routing_keys"][0],
        "queue": where if kind == "deliver" else None,
    }
    try:
        envelope = json.loads(message.body)
        content = json.loads(envelope["oslo.message"])
    except (ValueError, KeyError, TypeError):
        content = {}
    line["method"] = content.get("method")
    line["args"] = content.get("args")
    output.write(json.dumps(line) + "\n")
    output.flush()


def _answer(host: str, port: str) -> None:
    connection = _connect(host, port)
    for line in sys.stdin:
        channel = connection.channel()
        try:
            answer = channel.queue_declare(line.strip(), passive=True).consumer_count
            channel.close()
        except amqp.exceptions.NotFound:
            answer = -1
        print(answer, flush=True)


if __name__ == "__main__":
    main()
