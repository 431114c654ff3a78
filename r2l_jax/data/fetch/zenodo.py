"""Records of Zenodo: their lists of files, and the files themselves."""

import pathlib
import re

import requests
from tqdm import tqdm

from r2l_jax.data.fetch.partial import Dropped, Remote, Sink, fetch
from r2l_jax.data.fetch.web import check_secure, get, masked, read_json, without_password
from r2l_jax.runtime.errors import InputError, root_cause

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
    name = masked(url)
    try:
        with get(url, _TIMEOUT) as response:
            _check_status(response)
            content = read_json(response)
        files = {
            Remote(str(file["key"]), int(file["size"]), str(file["checksum"])): str(file["links"]["self"])
            for file in content["files"]
        }
    except InputError:
        raise
    except requests.RequestException as error:
        raise InputError(f"{name}: {without_password(root_cause(error), url)}") from None
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{name}: not a record of Zenodo's with a list of files: {error!r:.200}") from None
    for remote, link in files.items():
        if not re.fullmatch(r"(md5|sha1|sha256|sha512):[0-9a-f]+", remote.checksum or ""):
            raise InputError(f"{name}: {remote.name} has the checksum {remote.checksum!r}, expected one like md5:...")
        if remote.size < 0:
            raise InputError(f"{name}: {remote.name} has the size {remote.size}")
        check_secure(url, link)
    return files


def fetch_file(remote: Remote, target: pathlib.Path, url: str, bar: tqdm) -> None:
    """Downloads a file by HTTP, from the first byte that is missing (see `partial.fetch`)."""

    def read(sink: Sink, start: int) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            with get(url, _TIMEOUT, headers) as response:
                _check_status(response)
                sent = response.headers.get("Content-Range", "")
                if start and response.status_code != 206:
                    sink.restart()
                elif start and not sent.startswith(f"bytes {start}-"):
                    raise InputError(f"{masked(url)}: got the range {sent!r}, expected one from byte {start}")
                for chunk in response.iter_content(_CHUNK):
                    sink.write(chunk)
        except requests.RequestException as error:
            raise Dropped(f"{masked(url)}: {without_password(root_cause(error), url)}") from None

    fetch(remote, target, read, bar)


def _check_status(response: requests.Response) -> None:
    if not response.ok:
        raise InputError(f"{masked(response.url)}: HTTP {response.status_code} {response.reason}")
