"""Verified downloads with pooch, which continue where an earlier call was interrupted."""

import pathlib
import shutil

import pooch
import requests
from tqdm import tqdm

from r2l_jax.errors import InputError, errors_only, root_cause

# Timeouts in seconds: to connect, and between two chunks. Zenodo may take a while to send the first byte of a file.
_TIMEOUT = (30, 120)
# How often a failed or dropped connection is reopened; each continues where the previous one ended.
_RETRIES = 3


def get(url: str, start: int = 0) -> requests.Response:
    """Requests the bytes of a URL from `start` on, without reading the body yet.

    Follows redirects, but not from HTTPS to other schemes, whose responses could be forged. Raises a
    requests.RequestException if the server cannot be reached or reports an error.
    """
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    response = requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    try:
        if url.startswith("https:") and any(
            not each.url.startswith("https:") for each in [*response.history, response]
        ):
            raise InputError(f"{url}: the server redirects from HTTPS to another scheme")
        response.raise_for_status()
    except (InputError, requests.HTTPError):
        response.close()
        raise
    return response


def fetch(url: str, target: pathlib.Path, checksum: str, size: int) -> None:
    """Downloads a file to `target`, where it appears complete and verified or not at all.

    Until then, the bytes are in `<target>.part`, and a later call asks only for the rest. An existing file with the
    checksum, such as "md5:..." in hexadecimal, is kept. The size is in bytes. A file that cannot be written raises an
    OSError.
    """
    part = target.with_name(f"{target.name}.part")

    def continued(url: str, output_file: str, _: pooch.Pooch) -> None:
        with part.open("ab") as file, _bar(target.name, size) as bar:
            if (start := file.tell()) < size:
                with get(url, start) as response:
                    if start and response.status_code != requests.codes.partial:
                        file.truncate(0)
                        file.seek(0)
                    bar.update(file.tell())
                    for chunk in response.iter_content(2**16):
                        bar.update(file.write(chunk))
                        if file.tell() > size:
                            break
            if file.tell() < size:
                raise requests.ConnectionError(f"the connection ended after {file.tell()} of {size} bytes")
        part.replace(output_file)

    # pooch's temporary file has a random name, so a kill would leave it for good anywhere else.
    apart = target.with_name(f".{target.name}.fetched")
    files = pooch.create(apart, "", registry={target.name: checksum}, retry_if_failed=_RETRIES)
    files.urls[target.name] = url
    algorithm, _, expected = checksum.partition(":")
    try:
        if target.is_file() and pooch.file_hash(str(target), algorithm) == expected:
            return
        with errors_only("pooch"):
            fetched = files.fetch(target.name, downloader=continued)  # pyright: ignore[reportArgumentType]  # names
        pathlib.Path(fetched).replace(target)
    except InputError:
        raise
    except (requests.RequestException, ValueError) as error:
        raise InputError(f"{target.name}: {root_cause(error)}") from None
    finally:
        if part.is_file() and part.stat().st_size == 0:
            part.unlink()
        shutil.rmtree(apart, ignore_errors=True)


def _bar(name: str, size: int) -> tqdm:
    return tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None)
