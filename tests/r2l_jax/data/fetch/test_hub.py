import hashlib

import huggingface_hub
import pytest
from servers import serving

from r2l_jax.data.fetch import hub
from r2l_jax.errors import InputError

CONTENT = bytes(range(256)) * 20
RESOLVE = "/timm/resnet18.tv_in1k/resolve/main/model.safetensors"


class Hub:
    """A hub with one file, which records the requested paths and tokens, and may send wrong answers."""

    def __init__(self):
        self.status, self.content, self.asked, self.tokens = 200, CONTENT, [], []

    def answer(self, path, given):
        self.asked.append(path)
        self.tokens.append(given["Authorization"])
        about = {"ETag": f'"{hashlib.sha256(CONTENT).hexdigest()}"', "X-Repo-Commit": "ab" * 20}
        about["Content-Length"] = len(self.content)
        return self.status if path == RESOLVE else 404, about, [self.content]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns the folder for weights in an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "r2l_jax" / "pretrained"


@pytest.fixture
def server(cache, monkeypatch):
    server = Hub()
    with serving(server.answer) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield server
    huggingface_hub.close_session()


def test_weights_are_downloaded_once_without_a_token_and_then_need_no_network(server, cache, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = hub.weights_file("resnet18")
    assert cache in file.parents
    assert file.read_bytes() == CONTENT
    assert RESOLVE in server.asked
    assert set(server.tokens) == {None}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.weights_file("resnet18") == file
    assert capfd.readouterr().err == ""  # No progress bar, which is for terminals.


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"status": 401}, "HTTP 401: log in"), ({"content": CONTENT[::-1]}, "does not match its SHA-256, [0-9a-f]+")],
)
def test_an_error_is_one_line_and_leaves_no_whole_file(server, cache, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    elsewhere = "https://huggingface.co/timm/resnet18.tv_in1k/resolve/main/model.safetensors elsewhere"
    given = "and give `pretrained_weights=<file>`"
    expected = rf"^`classifier_pretrained`: .*{message}.*; without network access, download {elsewhere}, {given}$"
    with pytest.raises(InputError, match=expected):
        hub.weights_file("resnet18")
    assert not list(cache.rglob("model.safetensors"))


@pytest.mark.parametrize("shared", [True, False])
def test_another_process_waits_for_the_first_and_looks_again(server, cache, monkeypatch, shared):
    def first_process_downloads(work):
        assert server.asked == []
        if shared:
            work()

    monkeypatch.setattr(hub, "on_first_process", first_process_downloads)
    assert hub.weights_file("resnet18").read_bytes() == CONTENT
    assert server.asked != []
