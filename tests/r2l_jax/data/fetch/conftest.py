"""A server on this machine for the tests of downloads."""

import contextlib

import pytest
from servers import serving


@pytest.fixture
def serve():
    """Returns a function that serves the answers of another function, and returns the server's URL.

    The other function takes the request's path and headers, and returns the status, more headers, the body, and the
    number of its bytes after which the connection ends, None for all.
    """
    with contextlib.ExitStack() as servers:

        def start(answer):
            def pieces(path, headers):
                status, more, body, drop = answer(path, headers)
                return status, {"Content-Length": len(body), **more}, [body[:drop]]

            return servers.enter_context(serving(pieces))

        yield start
