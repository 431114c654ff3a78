"""Weights of networks from the Hugging Face hub, kept in the user's cache folder."""

import os
import pathlib
import re

import huggingface_hub
import pooch

from r2l_jax.devices.hosts import on_first_process
from r2l_jax.errors import InputError, errors_only, one_line
from r2l_jax.results.files import cache_dir

_FILE = "model.safetensors"


def weights_file(network: str) -> pathlib.Path:
    """Returns the local safetensors file with the ImageNet weights of a ResNet; downloads it first if needed.

    The file comes from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names. An existing file is used
    without contacting the hub. `network` is `resnet18`, `resnet34` or `resnet50`. The first process downloads while the
    others wait, so all processes must call this together.
    """
    folder = cache_dir() / "pretrained"
    # Torchvision's first ImageNet weights ("IMAGENET1K_V1") as timm publishes them, with torchvision's tensor names.
    repository = f"timm/{network}.tv_in1k"

    def find() -> pathlib.Path:
        try:
            there = huggingface_hub.try_to_load_from_cache(repository, _FILE, cache_dir=folder)
            if isinstance(there, str):
                return pathlib.Path(there)
            with errors_only("huggingface_hub"):
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
        except Exception as error:  # The library and its dependencies raise many kinds.
            raise InputError(
                f"`classifier_pretrained`: {one_line(error)}; without network access, use `pretrained_weights=<file>`"
            ) from None

    on_first_process(find)
    # A process on another host may have a separate cache folder, and downloads to it here.
    return find()
