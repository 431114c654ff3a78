"""A server on this machine for the tests of downloads."""

import contextlib
import http.server
import threading

import pytest


@pytest.fixture
def serve():
    """Returns a function that serves what another function answers, and returns the server's URL.

    The other function takes the request's path and headers, and returns the status, more headers, the body, and the
    number of its bytes after which the connection ends, None for all.
    """
    started = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, headers, body, drop = answer(self.path, self.headers)
                self.send_response(status)
                for header, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(header, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(body[:drop])

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()
