"""Loads torchvision's ImageNet weights into the residual network of a head, from the hub or from a file."""

import contextlib
import pathlib
import shlex
from collections.abc import Mapping

import numpy as np
import safetensors
from flax import nnx

import tasks
from r2l_jax.runtime.errors import InputError
from tasks.resnet import NETWORKS, ResNetTrunk

# Files may have a classifier for ImageNet's classes, which is not used.
_CLASSIFIER = ("fc.",)

# Safetensors' names of the types that NumPy has: weights are floating-point numbers, counters are integers.
_DTYPES = {"F16", "F32", "F64", "I64"}

_CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "save_file({name: tensor.contiguous() for name, tensor in "
    "torch.load(sys.argv[1], map_location='cpu', weights_only=True).items()}, sys.argv[2])\""
)


def load_weights(head: nnx.Module, network: str, file: str | None = None) -> None:
    """Replaces the weights of the residual network in a head with torchvision's ImageNet weights ("IMAGENET1K_V1").

    The residual network is all of a ResNet except its last layer, `fc`, or the encoder of a U-Net. Its parameters and
    the running statistics of its batch norms are replaced in place; the rest of the head stays as it is.

    Args:
        head: a network of `tasks.resnet` or `tasks.unet`. In an abstract one (`nnx.eval_shape`), the rest stays
            abstract.
        network: the residual network in the head: `resnet18`, `resnet34` or `resnet50`.
        file: a safetensors file with torchvision's names, with or without the classifier and `num_batches_tracked`;
            None downloads the weights from the Hugging Face hub (see `hub.weights_file`), in all processes together.

    Raises:
        InputError: the file is missing, cannot be read, is a PyTorch file, or does not hold the weights of the network;
            or the download fails. The head is unchanged then.
    """
    if file:
        path = pathlib.Path(file)
    else:
        # Imported here, because the download libraries would make every training start later.
        from r2l_jax.data.fetch import hub

        path = hub.weights_file(network)
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
            # The last line names a tensor that the network does not have, which shows how the file writes names.
            misfits = [*misfits[:2], misfits[-1], f"and {len(misfits) - 3} more"]
        raise InputError(f"{source} does not hold the weights of a {network}: {'; '.join(misfits)}") from None


def _network_of(state: Mapping[str, np.ndarray]) -> str | None:
    """Returns the known network that has these tensors, apart from the classifier, or None."""
    for name, (block, counts) in NETWORKS.items():
        trunk = nnx.eval_shape(lambda block=block, counts=counts: ResNetTrunk(block, counts, rngs=nnx.Rngs(0)))
        with contextlib.suppress(ValueError):
            tasks.load_torch_state(trunk, state, keep=_CLASSIFIER)
            return name
    return None


def _read(path: pathlib.Path, source: str) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # A safetensors file starts with eight bytes of a length, which may have any values, followed by JSON.
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
        raise InputError(f"{source} is not a safetensors file that can be read: {error}") from None
