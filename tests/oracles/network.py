"""The small head of the tests (`small_runs.SmallHead`) in float64, and probabilities and losses of logits."""

import numpy as np
from oracles import isp


def part(values, name):
    """The arrays of one part of a model, such as the "processor", from the arrays of its file."""
    return {key.removeprefix(f"{name}."): value.astype(float) for key, value in values.items() if key.startswith(name)}


def _convolved(values, images):
    """Images after normalization, and after the convolution."""
    head, norm = part(values, "head"), part(values, "normalizer")
    x = np.pad((images - norm["mean"]) / np.sqrt(norm["var"] + 1e-5), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    return np.einsum("nhwcij,ijco->nhwo", windows, head["conv1.kernel"])


def logits(values, images):
    """The logits of images `(N, H, W, 3)` by the arrays of a model's file: normalization, convolution, mean, linear."""
    head, x = part(values, "head"), _convolved(values, images)
    x = (x - head["bn1.mean"]) / np.sqrt(head["bn1.var"] + 1e-5) * head["bn1.scale"] + head["bn1.bias"]
    return np.maximum(x, 0).mean((1, 2)) @ head["fc.kernel"] + head["fc.bias"]


def layers(values, images):
    """For each normalization layer, its input, and the mean and variance of its training."""
    norm, head = part(values, "normalizer"), part(values, "head")
    yield images, norm["mean"], norm["var"]
    yield _convolved(values, images), head["bn1.mean"], head["bn1.var"]


def rendered(values, raws):
    """The images of a model with the study's pipeline."""
    return isp.parametrized(raws, part(values, "processor"))["gamma_correct"]


def probabilities(logits):
    """Softmax."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits, labels):
    """The loss of each sample."""
    return -np.log(probabilities(logits)[np.arange(len(labels)), labels])
