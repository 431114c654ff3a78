"""Task heads, from RGB to logits: networks, pretrained weights, losses and metrics."""

from tasks import detection, losses, metrics
from tasks.pretrained import load_torch_state
from tasks.resnet import resnet
from tasks.unet import unet

__all__ = ["detection", "load_torch_state", "losses", "metrics", "resnet", "unet"]
