import contextlib
import hashlib
import http.server
import json
import logging
import threading

import pooch
import pytest

from r2l_jax.data.fetch import hub
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError

CONTENT = bytes(range(256)) * 20
DAMAGED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


class Hub:
    """A hub on loopback with one repository, which records the requests.

    Attributes:
        content: the content of the file.
        entry: wrong fields for the file in the repository's list.
        listing: other bytes to send for the list.
        statuses: the HTTP status by path.
        drop: the number of bytes of the file after which the connection ends.
        stalls: a path that is never answered.
        asked: all requested paths.
    """

    TREE = "/api/models/timm/resnet18.tv_in1k/tree/main"
    RESOLVE = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    CDN = "/elsewhere/a-hash?signature=x"

    def __init__(self):
        self.content, self.entry, self.listing = CONTENT, {}, None
        self.statuses, self.drop, self.stalls, self.asked = {}, None, None, []
        self.released = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def list(self):
        lfs = {"oid": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT), "pointerSize": 133}
        file = {"type": "file", "oid": "of git", "size": len(CONTENT), "path": "model.safetensors", "lfs": lfs}
        return json.dumps([{"type": "file", "oid": "x", "size": 9, "path": "README.md"}, file | self.entry]).encode()

    def answer(self, request):
        self.asked.append(request.path)
        if request.path == self.stalls:
            self.released.wait()
            return
        status, headers = {self.RESOLVE: (302, {"Location": self.CDN})}.get(request.path, (200, {}))
        body = {self.TREE: self.listing or self.list(), self.CDN: self.content}.get(request.path, b"")
        request.send_response(self.statuses.get(request.path, status))
        for header, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(header, value)
        request.end_headers()
        with contextlib.suppress(ConnectionError):
            request.wfile.write(body[: self.drop] if request.path == self.CDN else body)

    def stop(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns the folder for weights in an empty cache folder."""
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "pretrained"


@pytest.fixture
def server(cache, monkeypatch):
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stop()
    thread.join()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


NAME = f"resnet18.tv_in1k-{hashlib.sha256(CONTENT).hexdigest()}.safetensors"


def test_weights_are_downloaded_once_and_then_need_no_network(server, cache, monkeypatch, capfd):
    file = hub.weights_file("resnet18")
    assert file == cache / NAME
    assert files(cache) == {NAME: CONTENT}
    assert server.asked == [server.TREE, server.RESOLVE, server.CDN]
    assert capfd.readouterr().err == ""  # No progress bar, which is for terminals.
    assert not pooch.get_logger().isEnabledFor(logging.INFO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.weights_file("resnet18") == file
    assert capfd.readouterr().err == ""


def test_a_damaged_file_in_the_cache_is_downloaded_again(server, cache):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(DAMAGED)
    assert hub.weights_file("resnet18").read_bytes() == CONTENT
    assert files(cache) == {NAME: CONTENT}


OFFLINE = r"; without the network, give --pretrained_weights=<file>$"
UNDECLARED = rf"{Hub.TREE} declares no SHA-256 and size of model.safetensors: "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"content": DAMAGED},
            rf"{Hub.RESOLVE}: the file does not have the SHA-256 .*, {NAME[17:81]}; nothing is kept$",
        ),
        ({"content": b""}, rf"{Hub.RESOLVE}: the file does not have the SHA-256 "),
        ({"drop": 100}, rf"{Hub.RESOLVE}: .*100 bytes read, {len(CONTENT) - 100} more expected.*{OFFLINE}"),
        ({"statuses": {Hub.TREE: 401}}, rf"{Hub.TREE}: HTTP 401 Unauthorized{OFFLINE}"),
        ({"statuses": {Hub.RESOLVE: 404}}, rf"{Hub.RESOLVE}: HTTP 404 Not Found{OFFLINE}"),
        ({"statuses": {Hub.CDN: 503}}, rf"{Hub.RESOLVE}: HTTP 503 Service Unavailable{OFFLINE}"),
        ({"listing": b"<html>"}, rf"{UNDECLARED}JSONDecodeError"),
        ({"listing": b"{}"}, rf"{UNDECLARED}KeyError\('model.safetensors'\)$"),
        ({"listing": b"[7]"}, rf"{UNDECLARED}TypeError"),
        ({"entry": {"path": "pytorch_model.bin"}}, rf"{UNDECLARED}KeyError\('model.safetensors'\)$"),
        ({"entry": {"lfs": None}}, rf"{UNDECLARED}TypeError"),
        ({"entry": {"lfs": {"oid": "ab" * 20, "size": 9}}}, rf"{UNDECLARED}ValueError\('{'ab' * 20}, 9 bytes'\)$"),
        ({"entry": {"lfs": {"oid": "ab" * 32, "size": 0}}}, rf"{UNDECLARED}ValueError\('{'ab' * 32}, 0 bytes'\)$"),
        ({"stalls": Hub.TREE}, rf"{Hub.TREE}: .*timed out.*{OFFLINE}"),
        ({"stalls": Hub.CDN}, rf"{Hub.RESOLVE}: .*timed out.*{OFFLINE}"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(server, cache, monkeypatch, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    if "stalls" in changes:
        monkeypatch.setattr(hub, "_TIMEOUT", 0.1)
    with pytest.raises(InputError, match=f"^--classifier_pretrained: {server.url}{message}") as caught:
        hub.weights_file("resnet18")
    assert "\n" not in str(caught.value)
    assert files(cache) == {}


def test_no_network_is_one_line(cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = rf"^--classifier_pretrained: http://127.0.0.1:9{Hub.TREE}: .*Connection refused{OFFLINE}"
    with pytest.raises(InputError, match=message):
        hub.weights_file("resnet18")
    assert files(cache) == {}


def test_a_folder_that_cannot_be_made_is_one_line(server, cache):
    cache.parent.touch()
    with pytest.raises(InputError, match=rf"^--classifier_pretrained: {cache}: Not a directory$"):
        hub.weights_file("resnet18")


@pytest.mark.parametrize("shared", [True, False])
def test_another_process_waits_for_the_first_and_looks_again(server, cache, monkeypatch, shared):
    def first_process_downloads(work):
        assert server.asked == []
        if shared:
            cache.mkdir(parents=True)
            (cache / NAME).write_bytes(CONTENT)

    monkeypatch.setattr(hub, "on_first_process", first_process_downloads)
    assert hub.weights_file("resnet18").read_bytes() == CONTENT
    assert server.asked == ([] if shared else [server.TREE, server.RESOLVE, server.CDN])
    assert files(cache) == {NAME: CONTENT}
