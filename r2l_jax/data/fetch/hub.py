"""Weights of networks from the Hugging Face hub, kept in the user's cache folder."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import filelock
import pooch
from tqdm import tqdm

from r2l_jax.data.fetch.partial import Remote
from r2l_jax.data.fetch.web import ask, fetch_file
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import on_first_process

_HUB = "https://huggingface.co"
_FILE = "model.safetensors"


def weights_file(network: str) -> pathlib.Path:
    """Returns the local safetensors file with the ImageNet weights of a ResNet; downloads it first if needed.

    The file comes from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names, and is checked against the
    SHA-256 that the hub declares. The SHA-256 becomes a part of the file's name, and a file that still has it is used
    without asking the network. The first process downloads while the others wait, so all processes must call this
    together.

    Args:
        network: `resnet18`, `resnet34` or `resnet50`.

    Raises:
        InputError: the hub cannot be reached, declares no SHA-256, or sends something else; or the file cannot be
            written.
    """
    folder = startup.cache_dir() / "pretrained"
    # Torchvision's first ImageNet weights ("IMAGENET1K_V1") as timm publishes them, with torchvision's tensor names.
    name = f"{network}.tv_in1k"

    def find() -> pathlib.Path:
        try:
            if cached := _cached(folder, name):
                return cached
            with _alone(folder):
                return _cached(folder, name) or _download(folder, name)
        except OSError as error:
            raise InputError(
                f"--classifier_pretrained: {error.filename or folder}: {error.strerror or error}"
            ) from None

    on_first_process(find)
    # A process on another host may have a cache folder of its own, and downloads to it here.
    return find()


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder, and waits until no other program downloads to it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    with contextlib.suppress(OSError):  # Some network file systems have no locks.
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _cached(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """Returns a file that was downloaded earlier and still has the SHA-256 in its name, or None."""
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        if path.stem.endswith(f"-{pooch.file_hash(path)}"):
            return path
    return None


def _download(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Downloads the file of a network, which appears in the folder complete and checked or not at all."""
    hub, repository = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/"), f"timm/{name}"
    try:
        listing = f"{hub}/api/models/{repository}/tree/main"
        sha256, size = ask(listing, _declared, f"declares no SHA-256 and size of {_FILE}")
        target = folder / f"{name}-{sha256}.safetensors"
        with tqdm(desc=name, total=size, unit="B", unit_scale=True, disable=None) as bar:
            remote = Remote(target.name, size, f"sha256:{sha256}")
            fetch_file(remote, target, f"{hub}/{repository}/resolve/main/{_FILE}", bar)
    except InputError as error:
        raise InputError(
            f"--classifier_pretrained: {error}; without the network, give --pretrained_weights=<file>"
        ) from None
    return target


def _declared(content: Any) -> tuple[str, int]:
    """Returns the SHA-256 and the size of the weights in the hub's list of a repository's files."""
    declared = {file["path"]: file for file in content}[_FILE]["lfs"]
    sha256, size = str(declared["oid"]), int(declared["size"])
    if not re.fullmatch("[0-9a-f]{64}", sha256) or size <= 0:
        raise ValueError(f"{sha256}, {size} bytes")
    return sha256, size
