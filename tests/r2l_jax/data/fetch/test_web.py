import gzip
import io
import itertools
import re
import urllib.parse

import pytest
import requests

from r2l_jax.data.fetch import hub
from r2l_jax.data.fetch.download import read_record
from r2l_jax.data.fetch.web import get, masked, read_json
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError


@pytest.fixture
def answers(monkeypatch):
    """Replaces the network: answers each URL with a redirect or a body, and records the URLs that are asked."""
    replies, asked = {}, []

    def send(adapter, request, **options):
        asked.append(request.url)
        place = re.sub("//.*@", "//", request.url)
        response = requests.Response()
        response.request, response.url, response.connection = request, request.url, adapter
        reply = replies[place]
        if isinstance(reply, str):
            response.status_code = 302
            response.headers["Location"] = reply
            reply = b""
        else:
            response.status_code = 200
        response.raw = io.BytesIO(reply)
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    return replies, asked


@pytest.mark.parametrize(
    ("chain", "error"),
    [
        (["https://a.org/", "http://b.org/x"], "https://a.org/: refused to leave HTTPS for http://b.org/x"),
        (
            ["https://a.org/", "https://b.org/", "http://c.org/"],
            "https://b.org/: refused to leave HTTPS for http://c.org/",
        ),
        *((["https://a.org/", target], None) for target in ("//b.org/y", "/z", "https://b.org/y")),
        (["http://a.org/", "http://b.org/"], None),
    ],
)
def test_redirects_never_leave_https(answers, chain, error):
    replies, asked = answers
    urls = list(itertools.accumulate(chain, urllib.parse.urljoin))
    replies |= {**dict(zip(urls, chain[1:], strict=False)), urls[-1]: b"{}"}
    if error is None:
        assert read_json(get(urls[0])) == {}
        assert asked == urls
    else:
        with pytest.raises(InputError, match=f"^{error}$"):
            get(urls[0])
        assert asked == urls[:-1]


def test_a_record_by_https_names_no_file_by_plain_http(answers):
    replies, _ = answers
    replies["https://zenodo.org/r"] = (
        b'{"files": [{"key": "a.zip", "size": 1, "checksum": "md5:00", "links": {"self": "http://a.org/a.zip"}}]}'
    )
    with pytest.raises(InputError, match=r"^https://zenodo.org/r: refused to leave HTTPS for http://a.org/a.zip$"):
        read_record("https://zenodo.org/r")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://user:pass@host/path", "https://***@host/path"),
        ("https://user:p@ss@host/path@x", "https://***@host/path@x"),
        ("user:pass@host/path", "***@host/path"),
        ("https://host:8080/path?a=b@c", "https://host:8080/path?a=b@c"),
    ],
)
def test_passwords_are_masked(url, expected):
    assert masked(url) == expected
    if "***" in expected:
        assert "pass" not in masked(f"Invalid URL {url!r}", url)


@pytest.mark.parametrize("start", ["https://user:secret@host", "user:secret@host", "http://user:secret@127.0.0.1:9"])
def test_no_message_shows_a_password(answers, monkeypatch, tmp_path, start):
    replies, _ = answers
    replies |= dict.fromkeys(("https://host/api/models/timm/resnet18.tv_in1k/tree/main", "https://host/r"), b"{}")
    if start.startswith("http:"):
        monkeypatch.undo()
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", start)
    for ask in (lambda: hub.weights_file("resnet18"), lambda: read_record(f"{start}/r")):
        with pytest.raises(InputError, match=r"\*\*\*@") as caught:
            ask()
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (gzip.compress(b'{"files": [' + b" " * 2**25), {"Content-Encoding": "gzip"}, r"more than 16777216 bytes"),
        (
            gzip.compress(gzip.compress(bytes(2**26))),
            {"Content-Encoding": "gzip, gzip"},
            r"compressed more than once \(gzip, gzip\)",
        ),
        (b"[" * 200_000, {}, "nested too deeply"),
        (b'{"files": [{"key": "x", "size": 1e999, "checksum": "md5:0", "links": {"self": "x"}}]}', {}, "OverflowError"),
        (b'{"files": [{"key": "x", "size": -1, "checksum": "md5:0", "links": {"self": "x"}}]}', {}, "has the size -1"),
        (b"\xff\xfe\x00", {}, "UnicodeDecodeError"),
    ],
)
def test_a_hostile_record_is_one_line(serve, body, headers, message):
    url = serve(lambda *request: (200, headers, body, None))
    with pytest.raises(InputError, match=message) as caught:
        read_record(url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
