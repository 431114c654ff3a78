"""The stages of a camera's processing in float64, from the papers and the documentation.

Raw images are `(..., H, W)`, with the pattern RGGB unless another one is named, and images `(..., H, W, 3)`.
"""

import numpy as np
from scipy import ndimage

# ITU-R BT.601, as analog television scaled the color differences: U = 0.492 (B - Y), V = 0.877 (R - Y).
LUMA = np.array([0.299, 0.587, 0.114])
SHARPENING = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]])


def colors(pattern, height, width):
    """The color that each site sees: 0 red, 1 green, 2 blue; of a Bayer pattern, or of rows joined by "/"."""
    rows = pattern.split("/") if "/" in pattern else (pattern[:2], pattern[2:])
    tile = np.array([["RGB".index(letter) for letter in row] for row in rows])
    return np.tile(tile, (height, width))[:height, :width]


def black_levels(levels, height, width):
    """The black level of each site, of four levels in the order of the tile."""
    return np.tile(np.reshape(levels, (2, 2)), (height // 2, width // 2))


def mosaic(image, pattern="RGGB"):
    """Keeps the color that each site sees."""
    seen = colors(pattern, *image.shape[-3:-1])
    return np.take_along_axis(image, np.broadcast_to(seen[..., None], (*image.shape[:-1], 1)), -1)[..., 0]


def spread(raw, pattern="RGGB"):
    """Three planes, with zeros where a site sees another color."""
    return raw[..., None] * (colors(pattern, *raw.shape[-2:])[..., None] == np.arange(3))


def correlate(planes, kernel, mode):
    """Correlates the last two axes."""
    return ndimage.correlate(planes, np.reshape(kernel, (1,) * (planes.ndim - 2) + np.shape(kernel)), mode=mode)


def bilinear(raw, pattern="RGGB"):
    """Each missing color is the mean of its nearest sites; the border of the planes is repeated."""
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    planes = np.moveaxis(spread(raw, pattern), -1, 0)
    return np.stack([correlate(*each, "reflect") for each in zip(planes, (square, cross, square), strict=True)], -1)


def normalized(raw, kernels, pattern="RGGB"):
    """Each missing color is the mean of its sites in a window, weighted by the color's kernel."""
    planes, seen = (np.moveaxis(spread(each, pattern), -1, 0) for each in (raw, np.ones_like(raw)))
    sums, weights = ([correlate(*each, "constant") for each in zip(of, kernels, strict=True)] for of in (planes, seen))
    return np.moveaxis(np.where(seen == 1, planes, np.divide(sums, weights)), 0, -1)


def binned(raw, pattern="RGGB"):
    """Each 2x2 tile of a Bayer mosaic becomes a pixel, whose green is the mean of two sites."""
    *batch, height, width = raw.shape
    tiles = spread(raw, pattern).reshape(*batch, height // 2, 2, width // 2, 2, 3)
    return tiles.sum((-4, -2)) / [1, 2, 1]


def malvar2004(raw, pattern="RGGB", border="reflect"):
    """Malvar, He and Cutler (ICASSP 2004), figure 2; without another border, the outermost sites are repeated."""
    green = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]) / 8
    row = np.array([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8
    corners = np.array(
        [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
    )
    seen = colors(pattern, *raw.shape[-2:])
    by = {name: correlate(raw, kernel, border) for name, kernel in (("green", green), ("row", row), ("col", row.T))}
    opposite = correlate(raw, corners / 8, border)
    planes = [np.where(seen == 1, raw, by["green"])]
    for color in (0, 2):
        beside = (seen == color).any(1, keepdims=True)  # A green site in a row with this color.
        of_green = np.where(beside, by["row"], by["col"])
        planes.insert(color, np.where(seen == color, raw, np.where(seen == 1, of_green, opposite)))
    return np.stack(planes, -1)


def filtered_luma(image, function):
    """Replaces the luma, and keeps the color differences, so that each channel changes as the luma does."""
    luma = image @ LUMA
    return image + (function(luma) - luma)[..., None]


def gaussian(plane, sigma):
    """Blurs the last two axes; the border repeats its outermost pixels."""
    return ndimage.gaussian_filter(plane, (0,) * (plane.ndim - 2) + (sigma, sigma))


FILTERS = {
    "none": lambda luma: luma,
    "sharpening_filter": lambda luma: correlate(luma, SHARPENING, "constant"),
    "unsharp_masking": lambda luma: 2 * luma - gaussian(luma, 1),
    "gaussian_denoising": lambda luma: gaussian(luma, 0.5),
    "median_denoising": lambda luma: ndimage.median_filter(luma, (1,) * (luma.ndim - 2) + (3, 3)),
}


def static(raw, camera, demosaic, sharpen, denoise):
    """A static pipeline of the study; the camera is a dict as in its JSON file."""
    raw = raw - black_levels(camera["black_level"], *raw.shape[-2:])
    image = {"bilinear": bilinear, "malvar2004": malvar2004}[demosaic](raw, camera["pattern"])
    image = image * camera["white_balance"] @ np.transpose(camera["color_matrix"])
    for name in (sharpen, denoise):
        image = filtered_luma(image, FILTERS[name])
    return np.clip(image, 0, 1) ** (1 / 2.2)


def parametrized(raw, values, pattern="RGGB"):
    """The image after each stage of the study's differentiable pipeline with these parameters, by name."""
    values = {name: np.asarray(value, float) for name, value in values.items()}
    found = {"demosaic": spread(raw - black_levels(values["black_level"], *raw.shape[-2:]), pattern)}
    planes = np.moveaxis(found["demosaic"], -1, 0)
    image = np.stack([sum(map(correlate, planes, kernel, ["mirror"] * 3)) for kernel in values["debayer"]], -1)
    found["color_correct"] = image * values["white_balance"] @ values["colour_correction"].T
    for stage, name, mode in (("sharpening", "sharpening_filter", "constant"), ("gaussian", "gaussian_blur", "mirror")):
        image = [*found.values()][-1]
        found[stage] = filtered_luma(image, lambda luma, k=values[name], m=mode: correlate(luma, k, m))
    found["clipped"] = np.clip(found["gaussian"], 1e-5, 1)
    found["gamma_correct"] = found["clipped"] ** (1 / values["gamma_correct"])
    return found


def unprocess(image, camera, gamma=2.2):
    """The raw image without noise that a camera would have taken of a picture (Brooks et al., CVPR 2019)."""
    light = np.maximum(image, 0) ** gamma @ np.linalg.inv(camera["color_matrix"]).T / camera["white_balance"]
    return mosaic(light, camera["pattern"]) + black_levels(camera["black_level"], *image.shape[-3:-1])


def lab(image):
    """CIE L*a*b* of sRGB under D65 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    ratio = linear @ np.transpose(matrix) / [0.95047, 1, 1.08883]
    x, y, z = np.moveaxis(np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(first, second):
    """The color difference of L*a*b* images by Sharma, Wu and Dalal (2005), whose equations are numbered."""
    (l1, a1, b1), (l2, a2, b2) = (np.moveaxis(each, -1, 0) for each in (first, second))
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2  # (3)
    g = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))  # (4)
    c1, c2 = (np.hypot((1 + g) * a, b) for a, b in ((a1, b1), (a2, b2)))  # (6)
    h1, h2 = (np.degrees(np.arctan2(b, (1 + g) * a)) % 360 for a, b in ((a1, b1), (a2, b2)))  # (7)
    turn = (h2 - h1 + 180) % 360 - 180
    gray = c1 * c2 == 0
    away = np.where(gray, 0, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn) / 2))  # (11)
    hue = np.where(gray, h1 + h2, np.where(abs(h1 - h2) <= 180, (h1 + h2) / 2, (h1 + h2 + 360) / 2 % 360))  # (14)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 + sum(w * np.cos(np.radians(k * hue - s)) for w, k, s in ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6)))
    t -= 0.2 * np.cos(np.radians(4 * hue - 63))  # (15)
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)  # (18)
    parts = (l2 - l1) / sl, (c2 - c1) / (1 + 0.045 * chroma), away / (1 + 0.015 * chroma * t)  # (19, 20)
    turned = np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))  # (16)
    rotation = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * turned  # (17, 21)
    return np.sqrt(sum(part**2 for part in parts) + rotation * parts[1] * parts[2])  # (22)


def ssim(first, second):
    """The structural similarity of each pixel (Wang et al., 2004): a Gaussian window of 11x11, over zeros beyond."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 2 / 1.5**2)
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(image):
        return ndimage.correlate(image, window[..., None][(None,) * (image.ndim - 3)], mode="constant")

    means = mean(first), mean(second)
    variances = [mean(image**2) - m**2 for image, m in zip((first, second), means, strict=True)]
    covariance = mean(first * second) - means[0] * means[1]
    likeness = (2 * means[0] * means[1] + 1e-4) / (means[0] ** 2 + means[1] ** 2 + 1e-4)
    return likeness * (2 * covariance + 9e-4) / (sum(variances) + 9e-4)
