"""Records of Zenodo: their lists of files."""

import re
from typing import Any

from r2l_jax.data.fetch.partial import Remote
from r2l_jax.data.fetch.web import ask, check_secure, masked
from r2l_jax.runtime.errors import InputError

# The record of Raw-Microscopy and Raw-Drone.
RECORD = 5235536


def read_record(url: str) -> dict[Remote, str]:
    """Returns the files of a record and the URL of each file.

    Args:
        url: the record in Zenodo's REST API.

    Raises:
        InputError: the record cannot be reached, or is not one with a list of files and their checksums.
    """

    def files_of(content: Any) -> dict[Remote, str]:
        return {
            Remote(str(file["key"]), int(file["size"]), str(file["checksum"])): str(file["links"]["self"])
            for file in content["files"]
        }

    name, files = masked(url), ask(url, files_of, "not a record of Zenodo's with a list of files")
    for remote, link in files.items():
        if not re.fullmatch(r"(md5|sha1|sha256|sha512):[0-9a-f]+", remote.checksum or ""):
            raise InputError(f"{name}: {remote.name} has the checksum {remote.checksum!r}, expected one like md5:...")
        if remote.size < 0:
            raise InputError(f"{name}: {remote.name} has the size {remote.size}")
        check_secure(url, link)
    return files
