import concurrent.futures
import hashlib
import json
import threading

import pytest

from r2l_jax.data.fetch import hub, web
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError

CONTENT = bytes(range(256)) * 20
DAMAGED = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])


class Hub:
    """A hub with one repository, which records the requested paths and may send wrong answers.

    Attributes:
        content: the content of the file.
        lfs: wrong fields for the file in the repository's list.
        listing: other bytes to send for the list.
        status: the HTTP status of the list.
        drop: the number of bytes of the file after which the connection ends.
        stalls: a path that is answered only when `released` is set.
    """

    TREE = "/api/models/timm/resnet18.tv_in1k/tree/main"
    RESOLVE = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"
    CDN = "/elsewhere/a-hash?signature=x"

    def __init__(self):
        self.content, self.lfs, self.listing, self.status = CONTENT, {}, None, 200
        self.drop, self.stalls, self.asked = None, None, []
        self.released = threading.Event()

    def list(self):
        lfs = {"oid": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)} | self.lfs
        file = {"oid": "of git", "size": 9, "path": "model.safetensors", "lfs": lfs}
        return json.dumps([{"oid": "x", "size": 9, "path": "README.md"}, file]).encode()

    def answer(self, path, _):
        self.asked.append(path)
        if path == self.stalls:
            self.released.wait()
        if path == self.TREE:
            return self.status, {}, self.listing or self.list(), None
        if path == self.RESOLVE:
            return 302, {"Location": self.CDN}, b"", None
        return 200, {}, self.content, self.drop


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns the folder for weights in an empty cache folder."""
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "pretrained"


@pytest.fixture
def server(serve, cache, monkeypatch):
    server = Hub()
    server.url = serve(server.answer)
    monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/")
    yield server
    server.released.set()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


NAME = f"resnet18.tv_in1k-{hashlib.sha256(CONTENT).hexdigest()}.safetensors"


def test_weights_are_downloaded_once_and_then_need_no_network(server, cache, monkeypatch, capfd):
    file = hub.weights_file("resnet18")
    assert file == cache / NAME
    assert files(cache) == {NAME: CONTENT}
    assert server.asked == [server.TREE, server.RESOLVE, server.CDN]
    assert capfd.readouterr().err == ""  # No progress bar, which is for terminals.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.weights_file("resnet18") == file
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("name", "there"), [(NAME, DAMAGED), (f"{NAME}.part", CONTENT[:100])])
def test_a_damaged_or_begun_file_in_the_cache_becomes_a_whole_one(server, cache, name, there):
    cache.mkdir(parents=True)
    (cache / name).write_bytes(there)
    assert hub.weights_file("resnet18").read_bytes() == CONTENT
    assert files(cache) == {NAME: CONTENT}


UNDECLARED = rf"{Hub.TREE}: declares no SHA-256 and size of model.safetensors: "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": DAMAGED}, rf"{NAME}: got the SHA256 [0-9a-f]+, expected {NAME[17:81]}"),
        ({"drop": 100}, rf"{NAME}: .*100 bytes read, {len(CONTENT) - 100} more expected.*; the same command resumes"),
        ({"status": 401}, rf"{Hub.TREE}: HTTP 401 Unauthorized"),
        ({"listing": b"<html>"}, rf"{UNDECLARED}JSONDecodeError"),
        ({"listing": b"{}"}, rf"{UNDECLARED}KeyError\('model.safetensors'\)"),
        ({"lfs": {"oid": "ab" * 20}}, rf"{UNDECLARED}ValueError\('{'ab' * 20}, 5120 bytes'\)"),
        ({"lfs": {"size": 0}}, rf"{UNDECLARED}ValueError\('[0-9a-f]+, 0 bytes'\)"),
        ({"stalls": Hub.TREE}, rf"{Hub.TREE}: .*timed out"),
        ({"stalls": Hub.CDN}, rf"{NAME}: .*{Hub.RESOLVE}: .*timed out.* after 0 of"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_whole_file(server, cache, monkeypatch, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    if "stalls" in changes:
        monkeypatch.setattr(web, "_TIMEOUT", 0.1)
    expected = rf"^--classifier_pretrained: .*{message}.*; without the network, give --pretrained_weights=<file>$"
    with pytest.raises(InputError, match=expected) as caught:
        hub.weights_file("resnet18")
    assert "\n" not in str(caught.value)
    assert not (cache / NAME).exists()


def test_programs_that_start_at_once_download_one_after_the_other(server, cache):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = list(pool.map(hub.weights_file, ["resnet18"] * 3))
    assert found == [cache / NAME] * 3
    assert files(cache) == {NAME: CONTENT}
    assert server.asked == [server.TREE, server.RESOLVE, server.CDN]


def test_a_folder_that_cannot_be_made_is_one_line(server, cache):
    cache.parent.touch()
    with pytest.raises(InputError, match=r"^--classifier_pretrained: .*Not a directory"):
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
