"""Test-time adaptation without labels, from docs/adaptation.md and Schneider et al. (NeurIPS 2020).

The numbers that no page states, such as those of the search, follow `r2l_jax.drift.adjustment.methods`.
"""

import numpy as np
from oracles import monitor, network

# The candidate numbers of pseudo-images.
_PSEUDO_IMAGES = (0, *(2**power for power in range(11)), np.inf)
# The numbers of Adam (Kingma and Ba, 2015), whose steps fall to 0 along half a cosine.
_DECAY, _DECAY_OF_SQUARES, _LENGTH = 0.9, 0.999, 0.03


def _with_statistics(values, name, mean, variance):
    return values | {f"{name}.mean": mean, f"{name}.var": variance}


def _of_batch(images):
    """The mean and the variance of each channel over all images."""
    return images.mean((0, 1, 2)), images.var((0, 1, 2))


def feature_distance(values, images):
    """How far the features of images are from those of training: the mean over the layers.

    Of a layer, it is the mean over the channels of the Kullback-Leibler divergence of normal distributions, where the
    layers before it normalize by the images themselves.
    """
    found, of_images = [], values
    for place, name in enumerate(("normalizer", "head.bn1")):
        seen, known, variance = [*network.layers(of_images, images)][place]
        mean, spread = _of_batch(seen)
        ratio = (spread + 1e-5) / (variance + 1e-5)
        found.append((ratio + (mean - known) ** 2 / (variance + 1e-5) - 1 - np.log(ratio)).mean() / 2)
        of_images = _with_statistics(of_images, name, mean, spread * seen[..., 0].size / (seen[..., 0].size - 1))
    return np.mean(found)


def _share(values, images):
    """The weight of new images beside the pseudo-images that make each one most likely when it is left out."""
    layers, count = [*network.layers(values, images)], len(images)

    def cost(number):
        found = 0
        for seen, mean, variance in layers:
            for place in range(count):
                left, spread = _of_batch(np.delete(seen, place, 0))
                share = (count - 1) / (count - 1 + number)
                mixed = mean + share * (left - mean)
                mixed_variance = variance + share * (spread - variance) + 1e-5
                squares = ((seen[place] - mixed) ** 2).mean((0, 1))
                found += (np.log(mixed_variance) + squares / mixed_variance).mean() / count
        return found

    return count / (count + min(_PSEUDO_IMAGES, key=cost))


def information(values, images):
    """The mutual information of predictions and images, as a fraction of the entropy of the mean prediction."""
    probabilities = network.probabilities(network.logits(values, images))
    return 1 - monitor.entropy(probabilities).mean() / monitor.entropy(probabilities.mean(0))


def mixed(values, images):
    """The greatest mutual information of a model whose layers mix training statistics with those of the images."""
    found = []
    for share in (_share(values, images), 1):
        model = values
        for place, name in enumerate(("normalizer", "head.bn1")):
            seen, mean, variance = [*network.layers(model, images)][place]
            new, spread = _of_batch(seen)
            spread = spread * seen[..., 0].size / (seen[..., 0].size - 1)
            mixture = mean + share * (new - mean), variance + share * (spread - variance)
            model = _with_statistics(model, name, *mixture)
        found.append(information(model, images))
    return max(found)


def searched(values, raws, steps, nearest=3):
    """Searches for gains at which features look as in training, from the nearest exposures: the numbers of each end.

    By start in stops: the objective before each step, the distance at the end, which includes the price of gains that
    do not move together, and the mutual information of mixed statistics.
    """
    gains = values["processor.white_balance"].astype(float)

    def images(offsets):
        return network.rendered(values | {"processor.white_balance": gains * np.exp(offsets)}, raws)

    def distance(offsets):
        return feature_distance(values, images(offsets))

    def priced(offsets):
        return distance(offsets) + offsets.var()

    starts = {stops: np.full(3, stops * np.log(2)) for stops in (0, 1, 2, 3, 4, 5, 6, -1, -2)}
    chosen = sorted(starts, key=lambda stops: priced(starts[stops]))[:nearest]
    found = {"no search": ([], priced(np.zeros(3)), mixed(values, images(np.zeros(3))))}
    for stops in (stops for stops in starts if stops in chosen):
        offsets, mean, square, curve = starts[stops], 0, 0, []
        for step in range(steps):
            curve.append(distance(offsets))
            slope = [(priced(offsets + side) - priced(offsets - side)) / 2e-5 for side in 1e-5 * np.eye(3)]
            mean = _DECAY * mean + (1 - _DECAY) * np.array(slope)
            square = _DECAY_OF_SQUARES * square + (1 - _DECAY_OF_SQUARES) * np.square(slope)
            unbiased = mean / (1 - _DECAY ** (step + 1)), square / (1 - _DECAY_OF_SQUARES ** (step + 1))
            length = _LENGTH * (1 + np.cos(np.pi * step / steps)) / 2
            offsets = offsets - length * unbiased[0] / np.sqrt(unbiased[1])
        found[f"{stops:+d} stops"] = curve, priced(offsets), mixed(values, images(offsets))
    return found
