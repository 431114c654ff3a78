"""Draws a blood cell of the embedded data set after each stage of a pipeline, and rendered by the static pipelines.

python docs/ext/renderings.py writes docs/images/stages.png and docs/images/static_pipelines.png.
"""

import pathlib

import numpy as np

import isp
from r2l_jax.data.sets import datasets
from r2l_jax.results.contact_sheet import contact_sheet

IMAGES = pathlib.Path(__file__).parents[1] / "images"

# An eosinophil and the sites around it, without the borders of the image, where pipelines differ most.
_SAMPLE, _SITES = 1, slice(16, 112)


def main() -> None:
    """Draws both pictures."""
    dataset = datasets.load("Synthetic", synthetic_images=6)
    raw, camera = dataset.samples(np.array([_SAMPLE]))[0][0], dataset.camera
    assert camera is not None
    _, stages = isp.parametrized(camera).trace(raw)
    _draw({name: np.asarray(image) for name, image in stages.items()}, 3, "stages")
    rendered = {
        ", ".join(algorithms): np.asarray(isp.static(camera, *algorithms)(raw)) for algorithms in isp.PUBLISHED_STATIC
    }
    _draw(rendered, 4, "static_pipelines")


def _draw(images: dict[str, np.ndarray], columns: int, name: str) -> None:
    """Draws a contact sheet about as wide as a page."""
    cut = {title: image[_SITES, _SITES] for title, image in images.items()}
    contact_sheet(cut, columns, panel=2 * 384 // columns).save(IMAGES / f"{name}.png")


if __name__ == "__main__":
    main()
