"""Models and weights of networks from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pooch
from huggingface_hub import errors
from huggingface_hub.utils import tqdm

from r2l_jax.devices.hosts import on_first_process
from r2l_jax.errors import InputError, errors_only, one_line
from r2l_jax.results.files import cache_dir

_FILE = "model.safetensors"

# Reasons in place of the library's own, which have several lines. The first class that fits counts.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (errors.GatedRepoError, "access must be granted on its page: ask for it there, and log in with `hf auth login`"),
    (errors.RepositoryNotFoundError, "not found, or private: check the name, and log in with `hf auth login`"),
    (errors.RevisionNotFoundError, "it has no such revision"),
    (errors.LocalEntryNotFoundError, "the hub cannot be reached, and no copy is in the cache"),
    (errors.HFValidationError, "a model on the hub is hf://<owner>/<name> or hf://<owner>/<name>@<revision>"),
)


class _Bar(tqdm):
    """A progress bar on terminals only."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{**options, "disable": None})


@contextlib.contextmanager
def in_one_line(named: str) -> Iterator[None]:
    """Raises an InputError that names a repository in place of the errors of huggingface_hub."""
    try:
        with errors_only("huggingface_hub"):
            yield
    except InputError:
        raise
    except Exception as error:  # The library and its dependencies raise many kinds.
        status = getattr(getattr(error, "response", None), "status_code", None)
        found = [reason for kind, reason in _REASONS if isinstance(error, kind)]
        refused = [f"HTTP {status}: log in with `hf auth login`, with a token that allows this"] * (
            status in (401, 403)
        )
        raise InputError(f"{named}: {[*found, *refused, one_line(error) or type(error).__name__][0]}") from None


def model_folder(name: str, revision: str | None = None, **options: Any) -> pathlib.Path:
    """Returns the local folder of a model, "hf://<owner>/<name>" with or without "@<revision>".

    Only safetensors and JSON files are downloaded, to the cache of huggingface_hub. Without a network, an earlier copy
    is used. The options of `huggingface_hub.snapshot_download` apply.
    """
    repository, _, stated = name.removeprefix("hf://").partition("@")
    files = ["model*.safetensors", "*.json"]
    with in_one_line(name):
        # The library reads the environment only when it is imported.
        options = {"allow_patterns": files, "tqdm_class": _Bar, "endpoint": os.environ.get("HF_ENDPOINT"), **options}
        revision = revision or stated or None
        return pathlib.Path(huggingface_hub.snapshot_download(repository, revision=revision, **options))


def weights_file(network: str) -> pathlib.Path:
    """Returns the local safetensors file with the ImageNet weights of a ResNet; downloads it first if needed.

    An existing file in the user's cache folder is used without contacting the hub. `network` is `resnet18`, `resnet34`
    or `resnet50`. The first process downloads while the others wait, so all processes must call this together.
    """
    folder = cache_dir() / "pretrained"
    # Torchvision's first ImageNet weights ("IMAGENET1K_V1") as timm publishes them, with torchvision's tensor names.
    repository = f"timm/{network}.tv_in1k"

    def find() -> pathlib.Path:
        try:
            there = huggingface_hub.try_to_load_from_cache(repository, _FILE, cache_dir=folder)
            if isinstance(there, str):
                return pathlib.Path(there)
            with in_one_line(repository):
                endpoint = os.environ.get("HF_ENDPOINT")
                # The weights are public, so the user's token is not sent to the hub or a mirror.
                path = pathlib.Path(
                    huggingface_hub.hf_hub_download(repository, _FILE, cache_dir=folder, endpoint=endpoint, token=False)
                )
            # Large files are stored under their SHA-256, which the hub states and huggingface_hub does not check.
            stored = path.resolve()
            if re.fullmatch("[0-9a-f]{64}", stored.name) and pooch.file_hash(str(stored)) != stored.name:
                path.unlink()
                stored.unlink()
                raise InputError(f"{repository}: {_FILE} does not match its SHA-256, {stored.name}")
            return path
        except Exception as error:  # The file system may fail as well.
            raise InputError(
                f"`classifier_pretrained`: {one_line(error)}; without network access, download "
                f"https://huggingface.co/{repository}/resolve/main/{_FILE} elsewhere, and give "
                "`pretrained_weights=<file>`"
            ) from None

    on_first_process(find)
    # A process on another host may have a separate cache folder, and downloads to it here.
    return find()
