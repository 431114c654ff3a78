"""Records of Zenodo: their lists of files, and the files themselves."""

import pathlib
import re

import requests
from tqdm import tqdm

from r2l_jax.data.fetch.partial import Dropped, Remote, Sink, fetch
from r2l_jax.runtime.errors import InputError, root_cause

URL = "https://zenodo.org/api"
# The record of Raw-Microscopy and Raw-Drone.
RECORD = 5235536

# Seconds to connect, and between two pieces of an answer. Zenodo may need a while to find the first byte of a file.
_TIMEOUT = (30, 120)
# A piece during which the connection ends is lost, so pieces are small.
_CHUNK = 2**16


def read_record(url: str) -> dict[Remote, str]:
    """Returns the files of a record and the URL of each file.

    Args:
        url: the record in Zenodo's REST API.

    Raises:
        InputError: the record cannot be reached, or is not one with a list of files and their checksums.
    """
    try:
        response = requests.get(url, timeout=_TIMEOUT)
    except requests.RequestException as error:
        raise InputError(f"{url}: {root_cause(error)}") from None
    _check_status(response)
    try:
        files = {
            Remote(str(file["key"]), int(file["size"]), str(file["checksum"])): str(file["links"]["self"])
            for file in response.json()["files"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url}: not a record of Zenodo's with a list of files: {error!r}") from None
    for remote in files:
        if not re.fullmatch(r"(md5|sha1|sha256|sha512):[0-9a-f]+", remote.checksum or ""):
            raise InputError(f"{url}: {remote.name} has the checksum {remote.checksum!r}, expected one like md5:...")
    return files


def fetch_file(remote: Remote, target: pathlib.Path, url: str, bar: tqdm) -> None:
    """Downloads a file by HTTP, from the first byte that is missing (see `partial.fetch`)."""

    def read(sink: Sink, start: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                _check_status(response)
                sent = response.headers.get("Content-Range", "")
                if start and response.status_code != 206:
                    sink.restart()
                elif start and not sent.startswith(f"bytes {start}-"):
                    raise InputError(f"{url}: got the range {sent!r}, expected one from byte {start}")
                for chunk in response.iter_content(_CHUNK):
                    sink.write(chunk)
        except requests.RequestException as error:
            raise Dropped(f"{url}: {root_cause(error)}") from None

    fetch(remote, target, read, bar)


def _check_status(response: requests.Response) -> None:
    if not response.ok:
        raise InputError(f"{response.url}: HTTP {response.status_code} {response.reason}")
