"""A frame and a pipeline, ready to be rendered at any positions of the sliders."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float32

import isp
from r2l_jax.apps.lab.engine import Engine, Images, Judgement, Positions
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.training.run import Run

# The longest side of a frame, in sites. Larger frames are reduced, unless a model predicts them.
LONGEST = 768

Mosaic = Float32[np.ndarray, "_ _"]


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A raw image to process.

    Attributes:
        raw: the raw image, with white at 1; of the size of the model's raw images, if there is a model.
        camera: the camera that took it.
        target: the class `()` or the mask `(H, W)` of a sample; None where it is unknown.
    """

    raw: Mosaic
    camera: isp.Camera
    target: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class View:
    """A frame and a pipeline, and the latest results.

    Attributes:
        frame: the frame.
        named: the pipeline.
        engine: computes.
        raw: the raw image on the device, reduced if it is large.
        before: the images at the default.
        positions: the positions of the sliders.
        images: the latest images.
        stage: the stage whose image is shown.
        judgement: the model's latest prediction.
        target: the class or mask that the loss is for; None while the model is not compiled.
        target_known: whether the target is the sample's; otherwise, it is the model's prediction at the default, or a
            choice.
    """

    frame: Frame
    named: NamedPipeline
    engine: Engine
    raw: jax.Array
    before: Images
    positions: Positions
    images: Images
    stage: str
    judgement: Judgement | None = None
    target: np.ndarray | None = None
    target_known: bool = False

    @property
    def image(self) -> np.ndarray:
        """The latest processed image."""
        return list(self.images.values())[-1]

    def compile_model(self) -> None:
        """Compiles the model, and sets the target: the sample's, or else the model's prediction at the default."""
        predicted, known = self.engine.target(self.raw), self.frame.target
        self.target, self.target_known = (predicted, False) if known is None else (known, True)


def prepare(frame: Frame, named: NamedPipeline, model: Run | None) -> View:
    """Makes a pipeline for a frame's camera, and renders the frame once, so that everything is compiled.

    Raises:
        InputError: the pipeline does not take the frame's camera or size, or has a parameter without a natural range.
    """
    factor = -(-max(frame.raw.shape) // LONGEST)
    part = frame.raw if model is not None else reduced(frame.raw, frame.camera.pattern, factor)
    named.check(frame.camera, *part.shape)
    engine, raw = Engine(named(frame.camera), model), jax.device_put(part)
    before = engine.images(engine.start, raw)
    return View(frame, named, engine, raw, before, engine.start, before, engine.pipeline.stage_names[-1])


def reduced(raw: Mosaic, pattern: str, factor: int) -> Mosaic:
    """Shrinks a mosaic, and keeps its color filter array, by averaging sites at the same place in the tile.

    Along each axis, `factor` tiles become one. Tiles that are left over at the bottom and the right are cut.
    """
    rows, cols = isp.cfa.tile(pattern).shape
    height, width = (side // (period * factor) for side, period in zip(raw.shape, (rows, cols), strict=True))
    cut = raw[: height * factor * rows, : width * factor * cols]
    blocks = cut.reshape(height, factor, rows, width, factor, cols)
    return np.ascontiguousarray(blocks.mean((1, 4), dtype=np.float32).reshape(height * rows, width * cols))
