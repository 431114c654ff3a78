"""ImageNet weights for the residual network of a head: torchvision's, from the Hugging Face hub or from a file."""

import contextlib
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping

import numpy as np
import pooch
import requests
import safetensors
from flax import nnx
from tqdm import tqdm

import tasks
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError, root_cause
from r2l_jax.runtime.hosts import on_first_process
from tasks.resnet import NETWORKS, ResNetTrunk

_HUB = "https://huggingface.co"
# Torchvision's first ImageNet weights ("IMAGENET1K_V1"), as timm publishes them: the tensors have torchvision's names.
_REPOSITORY = "timm/{network}.tv_in1k"
_FILE = "model.safetensors"

# Seconds to connect, and between two pieces of an answer.
_TIMEOUT = 30
_CHUNK = 2**16

# A file's own classifier is of ImageNet's classes.
_CLASSIFIER = ("fc.",)

# Safetensors' names of what NumPy has a type for; counters are integers.
_DTYPES = {"F16", "F32", "F64", "I64"}

_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "save_file({name: tensor.contiguous() for name, tensor in "
    "torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])\""
)


def load_weights(head: nnx.Module, network: str, file: str | None = None) -> None:
    """Puts ImageNet weights into the residual network of a head, in place; what else the head has stays as it is.

    That is all of a ResNet but its last layer, `fc`, or the encoder of a U-Net. Parameters and the running statistics
    of the batch norms come from torchvision's "IMAGENET1K_V1".

    Without a file, they are downloaded from the Hugging Face hub, or from the mirror that $HF_ENDPOINT names, to the
    user's cache folder, and checked against the SHA-256 that the hub declares. It is part of the file's name there:
    what is there and still has it is used without asking the network. Of several processes the first one downloads,
    and those that share its folder wait for it: all must call this.

    Args:
        head: a network of `tasks.resnet` or `tasks.unet`; of an abstract one (`nnx.eval_shape`), the rest stays so.
        network: `resnet18`, `resnet34` or `resnet50`: which one the head has.
        file: a safetensors file by torchvision's names, with or without the classifier and `num_batches_tracked`;
            None is the hub's.

    Raises:
        InputError: the file is missing, cannot be read, is PyTorch's, or does not hold the weights of that network; the
            hub cannot be reached, declares no SHA-256, or sends other bytes. `head` is unchanged.
    """
    path = pathlib.Path(file) if file else _from_hub(network)
    source = f"--pretrained_weights={file}" if file else f"--classifier_pretrained: {path}"
    state = _read(path, source)
    try:
        tasks.load_torch_state(getattr(head, "encoder", head), state, keep=_CLASSIFIER)
    except ValueError as error:
        held = _network_of(state)
        if held not in (None, network):
            raise InputError(f"{source} holds the weights of a {held}, expected a {network}") from None
        _, *misfits = str(error).splitlines()
        if len(misfits) > 4:
            # The last are tensors that the network does not have: another way to write names shows in them.
            misfits = [*misfits[:2], misfits[-1], f"and {len(misfits) - 3} more"]
        raise InputError(f"{source} does not hold the weights of a {network}: {'; '.join(misfits)}") from None


def _network_of(state: Mapping[str, np.ndarray]) -> str | None:
    """Which of the known networks has these tensors, but for the classifier's."""
    for name, (block, counts) in NETWORKS.items():
        trunk = nnx.eval_shape(lambda block=block, counts=counts: ResNetTrunk(block, counts, rngs=nnx.Rngs(0)))
        with contextlib.suppress(ValueError):
            tasks.load_torch_state(trunk, state, keep=_CLASSIFIER)
            return name
    return None


def _read(path: pathlib.Path, source: str) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # Safetensors has a length of eight bytes, which may be any, and then JSON.
        if start[8:] != b"{" and (start.startswith((b"PK", b"\x80")) or path.suffix in (".pth", ".pt")):
            command = f"{_CONVERT} {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix('.safetensors')))}"
            raise InputError(
                f"{source} is a PyTorch file (pickle), which may run code when it is read: convert it where PyTorch "
                f"and safetensors are installed, by {command}"
            )
        with safetensors.safe_open(path, framework="np") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 -- no mapping
            for name, dtype in dtypes.items():
                if dtype not in _DTYPES:
                    raise InputError(f"{source}: {name} is {dtype}, expected one of {', '.join(sorted(_DTYPES))}")
            return {name: file.get_tensor(name) for name in dtypes}
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{source} is no safetensors file that can be read: {error}") from None


def _from_hub(network: str) -> pathlib.Path:
    """The hub's file of a network in the cache folder: the first process downloads it, and the others wait for it."""
    folder = startup.cache_dir() / "pretrained"

    def find() -> pathlib.Path:
        try:
            return _cached(folder, network) or _download(folder, network)
        except OSError as error:
            raise InputError(
                f"--classifier_pretrained: {error.filename or folder}: {error.strerror or error}"
            ) from None

    on_first_process(find)
    return find()  # hosts may have cache folders of their own


def _stem(network: str) -> str:
    return _REPOSITORY.format(network=network).rpartition("/")[2]


def _cached(folder: pathlib.Path, network: str) -> pathlib.Path | None:
    """A file that was downloaded earlier, and still has the SHA-256 in its name."""
    for path in sorted(folder.glob(f"{_stem(network)}-*.safetensors")):
        if path.stem.endswith(f"-{pooch.file_hash(path)}"):
            return path
    return None


def _download(folder: pathlib.Path, network: str) -> pathlib.Path:
    """Downloads the hub's file of a network; it appears in `folder` whole and checked or not at all."""
    hub, repository = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/"), _REPOSITORY.format(network=network)
    sha256, size = _declared(f"{hub}/api/models/{repository}/tree/main")
    url = f"{hub}/{repository}/resolve/main/{_FILE}"
    pooch.get_logger().setLevel("WARNING")  # the bar says it
    with _one_line(url), tqdm(desc=_stem(network), total=size, unit="B", unit_scale=True) as bar:

        def read(url: str, file: str, _) -> None:
            # As pooch's own downloader, which leaves the connection open when it fails.
            with requests.get(url, stream=True, timeout=_TIMEOUT) as response, open(file, "wb") as sink:
                response.raise_for_status()
                for chunk in response.iter_content(_CHUNK):
                    bar.update(sink.write(chunk))

        name = f"{_stem(network)}-{sha256}.safetensors"
        try:
            return pathlib.Path(pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=read))
        except requests.RequestException:
            raise
        except ValueError:
            raise InputError(
                f"--classifier_pretrained: {url}: what came has not the SHA-256 that the hub declares, {sha256}; "
                "nothing is kept"
            ) from None


def _declared(url: str) -> tuple[str, int]:
    """The SHA-256 and the size that the hub's list of a repository's files declares for the weights."""
    with _one_line(url):
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
    try:
        declared = {file["path"]: file for file in response.json()}[_FILE]["lfs"]
        sha256, size = str(declared["oid"]), int(declared["size"])
        if not re.fullmatch("[0-9a-f]{64}", sha256) or size <= 0:
            raise ValueError(f"{sha256}, {size} bytes")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--classifier_pretrained: {url} declares no SHA-256 and size of {_FILE}: {error!r:.200}"
        ) from None
    return sha256, size


@contextlib.contextmanager
def _one_line(url: str) -> Iterator[None]:
    """Turns what requests raises into one line."""
    try:
        yield
    except requests.RequestException as error:
        if error.response is None:
            why = root_cause(error)
        else:
            why = f"HTTP {error.response.status_code} {error.response.reason}"
        raise InputError(
            f"--classifier_pretrained: {url}: {why}; without the network, give --pretrained_weights=<file>"
        ) from None
