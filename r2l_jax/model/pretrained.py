"""Loads torchvision's ImageNet weights into the residual network of a head, from the hub or from a file."""

import pathlib

import safetensors.numpy
from flax import nnx

import tasks
from r2l_jax.errors import InputError

# Files may have a classifier for ImageNet's classes, which is not used.
_CLASSIFIER = ("fc.",)


def load_weights(head: nnx.Module, network: str, file: str | None = None) -> None:
    """Replaces the weights of the residual network in a head with torchvision's ImageNet weights ("IMAGENET1K_V1").

    The network (`resnet18`, `resnet34` or `resnet50`) is all of a ResNet except its last layer, `fc`, or the encoder of
    a U-Net. Its parameters and the running statistics of its batch norms are replaced in place; the rest of the head,
    which may be abstract (`nnx.eval_shape`), stays. `file` is a safetensors file with torchvision's names, with or
    without the classifier and `num_batches_tracked`; None downloads one (see `hub.weights_file`), in all processes
    together.
    """
    if file:
        path, source = pathlib.Path(file), f"`pretrained_weights={file}`"
    else:
        # Imported here, because the download libraries would make every training start later.
        from r2l_jax.data.fetch import hub

        path = hub.weights_file(network)
        source = f"`classifier_pretrained`: {path}"
    try:
        state = safetensors.numpy.load_file(path)
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{source} must be a safetensors file (not a PyTorch .pth): {error}") from None
    try:
        tasks.load_torch_state(getattr(head, "encoder", head), state, keep=_CLASSIFIER)
    except ValueError as error:
        _, *misfits = str(error).splitlines()
        # The last one names a tensor that the network does not have, if any.
        shown = "; ".join(dict.fromkeys([misfits[0], misfits[-1]]))
        raise InputError(
            f"{source} does not contain the weights of a {network}: {len(misfits)} tensors do not fit, such as {shown}"
        ) from None
