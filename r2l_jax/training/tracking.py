"""Records of a run in progress: TensorBoard events, pictures and tensors."""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from isp.parameter import MOST_ELEMENTS
from r2l_jax.model.pictures import row_of
from r2l_jax.runtime.files import replacing


class Tracker:
    """Records one fold: TensorBoard events in its folder, pictures and tensors under `results/`.

    Args:
        folder: the fold's.
        first_epoch: events from this epoch on, left by an interrupted run, are superseded.
        save_tensors: also write what the pictures show as .npy.
        enabled: whether anything is written: in one process of several.
    """

    def __init__(self, folder: pathlib.Path, first_epoch: int, save_tensors: bool, enabled: bool = True):
        self._folder = folder
        self._save_tensors = save_tensors and enabled
        self._enabled = enabled
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch, write_to_disk=enabled)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception) -> None:
        self._writer.close()

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Records numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def processor(self, parameters: Mapping[str, np.ndarray], gradient_norms: Mapping[str, float], epoch: int) -> None:
        """Records the processing's parameters, and the norm of the gradient of each.

        Elements are called by their place, as in the runs of earlier versions, and large parameters are histograms.
        """
        for name, value in parameters.items():
            if value.size > MOST_ELEMENTS:
                self._writer.add_histogram(f"processor/{name}", value.ravel(), epoch)
                continue
            for index, element in np.ndenumerate(value):
                self._writer.add_scalar("/".join(["processor", name, *map(str, index)]), element, epoch)
        for name, norm in gradient_norms.items():
            self._writer.add_scalar(f"processor_gradient_norm/{name}", norm, epoch)

    def images(self, group: str, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Records batches of pictures `(N, H, W, 3)` or `(N, H, W)`, each as a row, numbered to keep their order.

        Values are shown from 0 to 1.
        """
        for number, (name, batch) in enumerate(images.items()):
            name = f"{group}/{number}_{name}"
            self.picture(name, row_of(batch), epoch)
            self._tensor(name, batch, epoch)

    def gradients(self, gradients: Mapping[str, np.ndarray], epoch: int) -> None:
        """Records the magnitudes of gradients of such pictures; the brightest 1% of each image has full brightness.

        Images are scaled one by one, since gradients of well and badly classified samples differ by orders of
        magnitude.
        """
        for number, (name, gradient) in enumerate(gradients.items()):
            name = f"gradients/{number}_{name}"
            magnitude = np.abs(gradient)
            brightest = np.quantile(magnitude, 0.99, axis=tuple(range(1, magnitude.ndim)), keepdims=True)
            picture = np.clip(magnitude / np.maximum(brightest, np.finfo(np.float32).tiny), 0, 1)
            self.picture(name, row_of(picture), epoch)
            self._tensor(name, gradient, epoch)

    def differences(self, default: np.ndarray, adversarial: np.ndarray, epoch: int) -> None:
        """Records the default rendering, the rendering under attack, and half of their difference around gray."""
        difference = 0.5 + (adversarial - default) / 2
        self.images("differences", {"default": default, "adversarial": adversarial, "difference": difference}, epoch)

    def predictions(self, picture: np.ndarray, logits: np.ndarray, targets: np.ndarray, epoch: int) -> None:
        """Records a picture of predictions, see `model.tasks`, and the tensors behind it."""
        self.picture("predictions", picture, epoch)
        self._tensor("predictions_logits", logits, epoch)
        self._tensor("predictions_targets", targets, epoch)

    def picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """Records a picture `(rows, cols)` or `(rows, cols, 3)` with values in [0, 1]."""
        self._writer.add_image(name, picture.astype(np.float32), epoch, dataformats="HWC"[: picture.ndim])
        if self._enabled:
            with replacing(self._path(f"{name}.png", epoch)) as part:
                Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(part, "png")

    def hyperparameters(self, flags: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """Records the flags beside the final numbers, for TensorBoard's HParams page."""
        flags = {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in flags.items()}
        # TensorBoardX writes these events to a file of their own, whatever the writer writes.
        if not self._enabled:
            return
        self._writer.add_hparams(flags, {f"final/{name}": value for name, value in metrics.items()}, name="hparams")

    def flush(self) -> None:
        """Writes the events recorded so far, so that TensorBoard shows them."""
        self._writer.flush()

    def _tensor(self, name: str, tensor: np.ndarray, epoch: int) -> None:
        if self._save_tensors:
            with replacing(self._path(f"{name}.npy", epoch)) as part, part.open("wb") as file:
                np.save(file, tensor)

    def _path(self, name: str, epoch: int) -> pathlib.Path:
        return self._folder / "results" / f"epoch_{epoch:04d}" / name
