import asyncio

import pytest

pytest.importorskip("nicegui")

from r2l_jax.apps.lab.server import LimitedBodies


def sent(parts, headers=(), most=100):
    """Sends a request to an application that reads the whole body; returns the bytes that it read, and the status."""
    received, statuses = [], []
    waiting = iter([{"type": "http.request", "body": part, "more_body": True} for part in parts])

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            received.append(message["body"])
        received.append(message["type"])

    async def receive():
        return next(waiting, {"type": "http.request", "body": b"", "more_body": False})

    async def send(message):
        statuses.extend([message["status"]] if "status" in message else [])

    asyncio.run(LimitedBodies(app, most)({"type": "http", "headers": list(headers)}, receive, send))
    return received, statuses


def test_a_body_within_the_limit_passes():
    received, statuses = sent([b"a" * 60, b"b" * 40], [(b"content-length", b"100")])
    assert (received, statuses) == ([b"a" * 60, b"b" * 40, "http.request"], [])


@pytest.mark.parametrize("declared", [b"101", b"-1", b"many"])
def test_a_body_that_declares_too_much_is_refused_before_it_is_read(declared):
    assert sent([b"a"], [(b"content-length", declared)]) == ([], [413])


def test_a_body_that_grows_too_large_is_cut_off():
    received, _ = sent([b"a" * 60] * 5)
    assert received == [b"a" * 60, "http.disconnect"]
