"""Requests to servers that are not trusted: never from HTTPS to plain HTTP, and answers of bounded size."""

import json
import pathlib
import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

import requests
from tqdm import tqdm

from r2l_jax.data.fetch.partial import Dropped, Remote, Sink, fetch
from r2l_jax.runtime.errors import InputError, root_cause

Parsed = TypeVar("Parsed")

# Zenodo's record of a thousand files is a tenth of this.
MOST_JSON = 2**24

# Seconds to connect, and between two pieces of an answer. Zenodo may need a while to find the first byte of a file.
_TIMEOUT = (30, 120)
# A piece during which the connection ends is lost, so pieces are small.
_CHUNK = 2**16


class _Session(requests.Session):
    """Follows redirects, but not from HTTPS to other schemes, whose answers anybody could forge."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            check_secure(resp.url, urllib.parse.urljoin(resp.url, target))
        return target


def check_secure(source: str, target: str) -> None:
    """Raises an InputError if a server that was asked over HTTPS names a URL of another scheme."""
    asked, named = (urllib.parse.urlsplit(url).scheme.lower() for url in (source, target))
    if asked == "https" != named:
        raise InputError(f"{masked(source)}: refused to leave HTTPS for {masked(target)}")


def get(url: str, headers: dict[str, str] | None = None) -> requests.Response:
    """Sends a request; the answer's body is not read yet.

    The answer is a context manager, which closes the connection.

    Raises:
        InputError: the server leads from HTTPS to plain HTTP, compresses its answer more than once, or states an error.
        requests.RequestException: the server cannot be reached.
    """
    with _Session() as session:
        response = session.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    # Each method may expand a piece a thousandfold before any of it can be counted.
    if "," in (encoding := response.headers.get("Content-Encoding", "")):
        response.close()
        raise InputError(f"{masked(response.url)}: the answer is compressed more than once ({encoding:.100})")
    if not response.ok:
        response.close()
        raise InputError(f"{masked(response.url)}: HTTP {response.status_code} {response.reason}")
    return response


def ask(url: str, parse: Callable[[Any], Parsed], otherwise: str) -> Parsed:
    """Returns the result of `parse` on the JSON at a URL.

    Args:
        url: the URL.
        parse: takes the JSON; may raise a ValueError, KeyError or TypeError for JSON that it does not expect.
        otherwise: the message for such JSON.

    Raises:
        InputError: the server cannot be reached or states an error, or answers with other JSON. The message is one
            line.
    """
    try:
        with get(url) as response:
            return parse(read_json(response))
    except InputError:
        raise
    except requests.RequestException as error:
        raise InputError(f"{masked(url)}: {masked(root_cause(error), url)}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{masked(url)}: {otherwise}: {error!r:.200}") from None


def fetch_file(remote: Remote, target: pathlib.Path, url: str, bar: tqdm) -> None:
    """Downloads a file over HTTP, from the first byte that is missing (see `partial.fetch`)."""

    def read(sink: Sink, start: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with get(url, headers) as response:
                sent = response.headers.get("Content-Range", "")
                if start and response.status_code != 206:
                    sink.restart()
                elif start and not sent.startswith(f"bytes {start}-"):
                    raise InputError(f"{masked(url)}: got the range {sent!r}, expected one from byte {start}")
                for chunk in response.iter_content(_CHUNK):
                    sink.write(chunk)
        except requests.RequestException as error:
            raise Dropped(f"{masked(url)}: {masked(root_cause(error), url)}") from None

    fetch(remote, target, read, bar)


def read_json(response: requests.Response, most: int = MOST_JSON) -> Any:
    """Reads the JSON of an answer, unpacked piece by piece so that a small answer cannot become a large one.

    Raises:
        ValueError: the answer has more than `most` bytes, is not JSON, or is nested too deeply.
        requests.RequestException: the connection ends.
    """
    content = bytearray()
    for chunk in response.iter_content(_CHUNK):
        content += chunk
        if len(content) > most:
            raise ValueError(f"more than {most} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def masked(message: str, url: str | None = None) -> str:
    """Replaces the user's name and password of a URL, with or without a scheme, with *** in a message.

    Args:
        message: the message; without `url`, the URL itself.
        url: the URL.
    """
    place = (url or message).rpartition("://")[2].partition("/")[0]
    user = place.rpartition("@")[0]
    return message.replace(user, "***") if user else message
