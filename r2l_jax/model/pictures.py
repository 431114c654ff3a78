"""Pictures of targets and predictions, as arrays `(rows, cols, 3)` with values in [0, 1]."""

from collections.abc import Sequence

import numpy as np

# The colors of what is true and of what is found.
TRUE, FOUND = (0.0, 0.8, 0.0), (1.0, 0.0, 1.0)


def verdict(logits: np.ndarray, target: int, classes: Sequence[str]) -> str:
    """Returns a target and its prediction in words, such as "target BAS, EOS 76%"."""
    predicted = int(logits.argmax())
    probability = np.exp(logits[predicted] - np.logaddexp.reduce(logits))
    return f"target {classes[target]}, {classes[predicted]} {probability:.0%}"


def outlined(image: np.ndarray, target: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Draws the outlines of two masks `(H, W)` on an image `(H, W, 3)`: target in green, prediction in magenta."""
    image = np.array(image)
    for mask, color in ((target, TRUE), (predicted, FOUND)):
        # The sites of the mask that touch a site outside it.
        inner = np.pad(mask, 1, mode="edge")
        inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        image[mask & ~inner] = color
    return image


def palette(colors: Sequence[str], count: int) -> np.ndarray:
    """Returns colors such as "#ff8000" as `(count, 3)` uint8, or by default those of PASCAL VOC: 0 is black."""
    if colors:
        return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8)
    bits = (np.arange(count)[:, None, None] >> (3 * np.arange(8) + np.arange(3)[:, None])) & 1
    return (bits << np.arange(7, -1, -1)).sum(-1).astype(np.uint8)


def overlaid(image: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Mixes an image `(H, W, 3)` with the colors of the classes of a mask `(H, W)`; black ones leave it as it is."""
    tints = colors[mask] / np.float32(255)
    return np.where(tints.any(-1, keepdims=True), (np.clip(image, 0, 1) + tints) / 2, image)


def boxed(image: np.ndarray, boxes: np.ndarray, color: tuple[float, float, float]) -> np.ndarray:
    """Draws the outlines of boxes `(N, 4 or more)`, x1, y1, x2, y2 in pixels, on an image `(H, W, 3)`."""
    image = np.array(image)
    for x1, y1, x2, y2 in boxes[:, :4]:
        left, right = np.clip([round(x1), round(x2) - 1], 0, image.shape[1] - 1)
        top, bottom = np.clip([round(y1), round(y2) - 1], 0, image.shape[0] - 1)
        image[[top, bottom], left : right + 1] = color
        image[top : bottom + 1, [left, right]] = color
    return image


def row_of(images: np.ndarray) -> np.ndarray:
    """Joins images `(N, H, W, ...)`, clipped to [0, 1], in a row."""
    return np.concatenate(list(np.clip(images, 0, 1)), axis=1)
