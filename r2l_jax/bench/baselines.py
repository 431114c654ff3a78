"""The baselines of the benchmark: the same work in other libraries, as users write it.

Each function prepares a piece of work with NumPy arrays and returns the call to time: raw images `raw` `(B, H, W)`
and their classes `labels`. The libraries are not dependencies of this project, so each function imports its own, and a
ModuleNotFoundError names a missing one. Libraries other than PyTorch compute on the CPU, with their default numbers of
threads. PyTorch has settings:

- `device`: PyTorch's name of the device to compute on.
- `compiled`: uses `torch.compile` instead of computing eagerly.
- `channels_last`: keeps the channels of the head's images and weights last in memory, which its convolutions prefer.
"""

import inspect
import re
from functools import partial
from typing import Any

import numpy as np

import isp
from isp.filter import gaussian_kernel
from r2l_jax.bench.inputs import CAMERA, CLASSES, GAMMA, LEARNING_RATE
from r2l_jax.bench.timing import Call
from r2l_jax.drift.corruptions.blur import disk

# pyright: reportMissingImports=false
# The baselines' libraries are optional, so pyright does not find them everywhere.


def parametrized_forward(raw: np.ndarray, compiled: bool = False, device: str = "cpu") -> Call:
    """Prepares PyTorch to render raw images with the pipeline and batch norm, to `(B, 3, H, W)`."""
    import torch

    processor, raws = torch.compile(_processor(device), disable=not compiled), torch.tensor(raw, device=device)
    return _awaited(torch.no_grad()(lambda: processor(raws)), device)


def parametrized_gradient(raw: np.ndarray, weight: np.ndarray, compiled: bool = False, device: str = "cpu") -> Call:
    """Prepares PyTorch's gradients, by parameter, of the mean of rendered images times weights `(B, H, W, 3)`."""
    import torch

    processor, raws = _processor(device), torch.tensor(raw, device=device)
    render = torch.compile(processor, disable=not compiled)
    weights = torch.tensor(np.moveaxis(weight, -1, 1).copy(), device=device)

    def gradient():
        processor.zero_grad()
        (render(raws) * weights).mean().backward()
        return {name.removesuffix(".weight"): parameter.grad for name, parameter in processor.named_parameters()}

    return _awaited(gradient, device)


def train_step(
    raw: np.ndarray, labels: np.ndarray, channels_last: bool = False, compiled: bool = False, device: str = "cpu"
) -> Call:
    """Prepares PyTorch to update the pipeline with batch norm and a ResNet-18 of torchvision with one step of Adam."""
    import torch

    model = _raw_to_logit(True, channels_last, compiled, device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    raws, targets = torch.tensor(raw, device=device), torch.tensor(labels, dtype=torch.int64, device=device)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(raws), targets)
        loss.backward()
        optimizer.step()
        return loss

    return _awaited(step, device)


def evaluation(
    raw: np.ndarray, labels: np.ndarray, channels_last: bool = False, compiled: bool = False, device: str = "cpu"
) -> Call:
    """Prepares PyTorch to compute the loss and the confusion matrix of the pipeline with batch norm and a ResNet-18."""
    import torch

    model = _raw_to_logit(False, channels_last, compiled, device)
    raws, targets = torch.tensor(raw, device=device), torch.tensor(labels, dtype=torch.int64, device=device)

    @torch.no_grad()
    def evaluate():
        logits = model(raws)
        cells = targets * CLASSES + logits.argmax(1)
        confusion = torch.zeros(CLASSES**2, device=device).index_add(0, cells, torch.ones_like(cells).float())
        return torch.nn.functional.cross_entropy(logits, targets), confusion.reshape(CLASSES, CLASSES)

    return _awaited(evaluate, device)


def _raw_to_logit(training: bool, channels_last: bool, compiled: bool, device: str) -> Any:
    """Makes a PyTorch module of the pipeline with batch norm and a ResNet-18."""
    import torch
    import torchvision

    head = torchvision.models.resnet18(num_classes=CLASSES)
    head = head.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    model = torch.nn.Sequential(_processor(device), head).train(training)
    return torch.compile(model, disable=not compiled)


def _awaited(call: Call, device: str) -> Call:
    """Makes a call wait for its work, since on a GPU, PyTorch's calls return earlier."""
    import torch

    def awaited():
        result = call()
        torch.cuda.synchronize(device)
        return result

    return awaited if torch.device(device).type == "cuda" else call


def _processor(device: str):
    """Makes a PyTorch module with the stages and the parameters of `isp.parametrized`, followed by a batch norm."""
    import torch
    from torch import nn

    if torch.device(device).type == "cuda":
        # JAX multiplies and convolves in TF32 on GPUs, and PyTorch only convolves in it unless told otherwise.
        torch.set_float32_matmul_precision("high")

    # Defined here, so that this file can be imported without PyTorch.
    class Processor(nn.Module):
        def __init__(self):
            super().__init__()
            self.black_level = nn.Parameter(torch.tensor(CAMERA.black_level))
            self.debayer = nn.Conv2d(3, 3, 3, padding=1, bias=False, padding_mode="reflect")
            self.white_balance = nn.Parameter(torch.tensor(CAMERA.white_balance))
            self.colour_correction = nn.Parameter(torch.tensor(CAMERA.color_matrix))
            self.sharpening_filter = nn.Conv2d(1, 1, 3, padding=1, bias=False)
            self.gaussian_blur = nn.Conv2d(1, 1, 5, padding=2, bias=False, padding_mode="reflect")
            self.gamma_correct = nn.Parameter(torch.tensor(GAMMA))
            self.norm = nn.BatchNorm2d(3, affine=False)
            self.debayer.weight.data[...] = torch.from_numpy(isp.demosaic.BILINEAR_KERNEL)
            self.sharpening_filter.weight.data[...] = torch.from_numpy(isp.sharpen.SHARPENING_KERNEL)
            self.gaussian_blur.weight.data[...] = torch.from_numpy(gaussian_kernel(0.5, 5))
            self.register_buffer("to_yuv", torch.tensor(isp.color.RGB_TO_YUV, dtype=torch.float32))
            self.register_buffer("to_rgb", torch.tensor(isp.color.YUV_TO_RGB, dtype=torch.float32))

        def forward(self, raw):
            planes = raw.new_zeros(raw.shape[0], 3, *raw.shape[1:])
            for site, channel in enumerate((0, 1, 1, 2)):
                row, col = divmod(site, 2)
                planes[:, channel, row::2, col::2] = raw[:, row::2, col::2] - self.black_level[site]
            rgb = torch.einsum("bchw,c->bchw", self.debayer(planes), self.white_balance)
            rgb = torch.einsum("bchw,kc->bkhw", rgb, self.colour_correction)
            yuv = torch.einsum("bchw,kc->bkhw", rgb, self.to_yuv).contiguous()
            yuv[:, [0]] = self.sharpening_filter(yuv[:, [0]])
            yuv[:, [0]] = self.gaussian_blur(yuv[:, [0]])
            rgb = torch.einsum("bchw,kc->bkhw", yuv, self.to_rgb).contiguous()
            return self.norm(torch.exp(torch.log(torch.clip(rgb, 1e-5, 1)) / self.gamma_correct))

    return Processor().to(device)


def demosaic(method: str, raw: np.ndarray) -> Call:
    """Prepares colour-demosaicing to demosaic one RGGB mosaic `(H, W)` with a method of `isp.demosaic`."""
    import colour_demosaicing

    name = {"bilinear": "bilinear", "malvar2004": "Malvar2004", "menon2007": "Menon2007"}[method]
    return partial(getattr(colour_demosaicing, f"demosaicing_CFA_Bayer_{name}"), raw)


def demosaic_opencv(raw: np.ndarray) -> Call:
    """Prepares OpenCV to demosaic one RGGB mosaic `(H, W)` bilinearly, in 16 bits, the most that OpenCV supports."""
    import cv2

    # OpenCV names a pattern by the colors of its second row and column.
    return partial(cv2.demosaicing, np.round(raw * (2**16 - 1)).astype(np.uint16), cv2.COLOR_BayerBG2RGB)


def demosaic_kornia(raw: np.ndarray, device: str = "cpu") -> Call:
    """Prepares kornia, which uses PyTorch, to demosaic one RGGB mosaic `(H, W)` bilinearly."""
    import kornia
    import torch

    # Kornia names patterns as OpenCV does.
    call = partial(kornia.color.raw_to_rgb, torch.tensor(raw, device=device)[None, None], kornia.color.CFA.BG)
    return _awaited(call, device)


def static(algorithms: tuple[str, str, str], raw: np.ndarray, camera: isp.Camera = CAMERA) -> Call:
    """Prepares NumPy, SciPy and scikit-image to render RGGB mosaics by published algorithms, one after another."""
    import scipy.ndimage
    import scipy.signal
    import skimage.color
    import skimage.filters

    method, sharpen, denoise = algorithms
    luma_filters = {
        "sharpening_filter": lambda luma: scipy.signal.convolve2d(luma, isp.sharpen.SHARPENING_KERNEL, "same"),
        "unsharp_masking": lambda luma: skimage.filters.unsharp_mask(luma, preserve_range=True),
        "unsharp_masking_vertical": lambda luma: 2 * luma - scipy.ndimage.gaussian_filter1d(luma, 1, axis=0),
        "median_denoising": lambda luma: scipy.ndimage.median_filter(luma, 3),
        "gaussian_denoising": lambda luma: scipy.ndimage.gaussian_filter(luma, 0.5),
    }
    height, width = raw.shape[1:]
    black_level = np.tile(np.reshape(camera.black_level, (2, 2)), (height // 2, width // 2))
    gains, matrix = np.array(camera.white_balance), np.array(camera.color_matrix)

    def render(mosaic):
        rgb = demosaic(method, mosaic - black_level)() * gains @ matrix.T
        for name in (sharpen, denoise):
            yuv = skimage.color.rgb2yuv(rgb)
            yuv[..., 0] = luma_filters[name](yuv[..., 0])
            rgb = skimage.color.yuv2rgb(yuv)
        return np.clip(rgb, 0, 1) ** (1 / GAMMA)

    return lambda: [render(mosaic) for mosaic in raw]


def denoise(method: str, rgb: np.ndarray) -> Call:
    """Prepares scikit-image to denoise images `(B, H, W, 3)`, one after another, with the defaults of `isp.denoise`."""
    from skimage import restoration

    denoise, settings = {
        "tv_chambolle": (restoration.denoise_tv_chambolle, {"weight": 0.01}),
        "tv_bregman": (restoration.denoise_tv_bregman, {"weight": 100, "eps": 1e-3}),
        "bilateral": (restoration.denoise_bilateral, {"sigma_spatial": 0.6}),
    }[method]
    return lambda: [denoise(image, channel_axis=-1, **settings) for image in rgb]


# The strengths of severity 3 in CIFAR-10-C, as in `r2l_jax.drift.corruptions`.
STRENGTHS: dict[str, Any] = {
    **{"gaussian_noise": 0.08, "shot_noise": 100, "impulse_noise": 0.03, "speckle_noise": 0.12, "contrast": 0.4},
    **{"brightness": 0.15, "saturate": (1.5, 0), "gaussian_blur": 0.7, "defocus_blur": (0.5, 0.6)},
    **{"glass_blur": (0.4, 1, 1), "motion_blur": (6, 2.0), "zoom_blur": np.arange(1, 1.16, 0.01), "fog": (0.75, 2.5)},
    **{"frost": (0.9, 0.4), "snow": (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9), "spatter": (0.65, 0.3, 1.0, 0.69, 0.5, 0)},
    **{"jpeg_compression": 58, "pixelate": 0.85},
}


def corruption(name: str, images: np.ndarray) -> Call:
    """Prepares imagecorruptions to corrupt 8-bit images one after another, with the strengths of CIFAR-10-C.

    Its elastic transform neither shifts nor shears, and has its own strength.
    """
    from imagecorruptions import corruptions
    from PIL import Image

    source = inspect.getsource(getattr(corruptions, name))
    source = re.sub(r"\bc = \[.*?\]\[\s*severity - 1\]", "c = strength", source, count=1, flags=re.DOTALL)
    scope = vars(corruptions) | {"strength": STRENGTHS.get(name)}
    exec(source, scope)
    bytes_ = _in_bytes(images)
    return lambda: [np.uint8(scope[name](Image.fromarray(image), 3)) for image in bytes_]


def corruption_albumentations(name: str, images: np.ndarray) -> Call:
    """Prepares albumentations to corrupt 8-bit images, one after another, with the strengths of CIFAR-10-C."""
    import albumentations as library

    strength = STRENGTHS[name]
    transform = {
        "gaussian_noise": lambda: library.GaussNoise(std_range=(strength, strength), p=1),
        "gaussian_blur": lambda: library.GaussianBlur((7, 7), (strength, strength), p=1),
        "glass_blur": lambda: library.GlassBlur(*strength, p=1),
        "jpeg_compression": lambda: library.ImageCompression(quality_range=(strength, strength), p=1),
    }[name]()
    bytes_ = _in_bytes(images)
    return lambda: [transform(image=image)["image"] for image in bytes_]


def corruption_kornia(name: str, images: np.ndarray, device: str = "cpu") -> Call:
    """Prepares kornia to corrupt images as this library does, except for how noise is drawn."""
    import kornia
    import torch

    planes, strength = torch.tensor(images, device=device).movedim(-1, 1).contiguous(), STRENGTHS[name]
    kernel = torch.tensor(disk(*strength) if name == "defocus_blur" else 0, device=device).float()[None]

    def brighter(hsv):
        hsv[:, 2] = (hsv[:, 2] + strength).clamp(max=1)
        return hsv

    call = {
        "gaussian_noise": lambda: kornia.augmentation.RandomGaussianNoise(std=strength, p=1)(planes).clamp(0, 1),
        "gaussian_blur": lambda: kornia.filters.gaussian_blur2d(planes, 7, (strength, strength), "replicate"),
        "defocus_blur": lambda: kornia.filters.filter2d(planes, kernel, "reflect"),
        "brightness": lambda: kornia.color.hsv_to_rgb(brighter(kornia.color.rgb_to_hsv(planes))),
        "saturate": lambda: kornia.enhance.adjust_saturation(planes, strength[0]),
    }[name]
    return _awaited(call, device)


def _in_bytes(images: np.ndarray) -> np.ndarray:
    return np.round(255 * images).astype(np.uint8)
