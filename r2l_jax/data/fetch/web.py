"""Requests to servers that are not trusted: never from HTTPS to plain HTTP, and answers of bounded size."""

import json
import urllib.parse
from typing import Any

import requests

from r2l_jax.runtime.errors import InputError

# Zenodo's record of a thousand files is a tenth of this.
MOST_JSON = 2**24

_CHUNK = 2**16


class _Session(requests.Session):
    """Follows redirects, but not from HTTPS to anything else: what comes then can be from anybody."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target is not None:
            check_secure(resp.url, urllib.parse.urljoin(resp.url, target))
        return target


def check_secure(source: str, target: str) -> None:
    """Raises an InputError if a server that was asked by HTTPS names a URL of another scheme."""
    if _scheme(source) == "https" and _scheme(target) != "https":
        raise InputError(f"{masked(source)}: refused to leave HTTPS for {masked(target)}")


def _scheme(url: str) -> str:
    return urllib.parse.urlsplit(url).scheme.lower()


def get(url: str, timeout: float | int | tuple[int, int], headers: dict[str, str] | None = None) -> requests.Response:
    """Sends a request; the answer's body is not read yet.

    The answer is a context manager, which closes the connection.

    Raises:
        InputError: the server leads from HTTPS to plain HTTP, or compresses its answer more than once.
        requests.RequestException: the server cannot be reached.
    """
    with _Session() as session:
        response = session.get(url, headers=headers, stream=True, timeout=timeout)
    # Each method makes up to a thousand times as much of a piece, before any of it can be counted.
    if "," in (encoding := response.headers.get("Content-Encoding", "")):
        response.close()
        raise InputError(f"{masked(response.url)}: the answer is compressed more than once ({encoding:.100})")
    return response


def read_json(response: requests.Response, most: int = MOST_JSON) -> Any:
    """Reads the JSON of an answer, unpacked piece by piece so that a small answer cannot become a large one.

    Raises:
        ValueError: the answer has more than `most` bytes, is no JSON, or is nested too deeply.
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


def masked(url: str) -> str:
    """Returns a URL for messages, with *** in place of a user's name and password."""
    user = _user(url)
    return url.replace(f"{user}@", "***@", 1) if user else url


def without_password(message: str, url: str) -> str:
    """Returns a message of an error without the user's name and password of a URL."""
    user = _user(url)
    return message.replace(user, "***") if user else message


def _user(url: str) -> str:
    """Returns the user's name and password in a URL, with or without a scheme."""
    place = url.rpartition("://")[2].partition("/")[0]
    return place.rpartition("@")[0]
