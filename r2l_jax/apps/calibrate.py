"""Calibrates a sensor: writes the JSON file of its camera, and the correction files that it names."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tifffile
from jaxtyping import Float32
from matplotlib.backends.backend_agg import FigureCanvasAgg
from tqdm import tqdm

import isp
from r2l_jax.apps.files import find_paths
from r2l_jax.calibration.defects import KINDS
from r2l_jax.calibration.figure import color_names, photon_transfer_curve
from r2l_jax.calibration.frames import Frames
from r2l_jax.calibration.measure import Calibration, measure
from r2l_jax.data.files.known_camera import KnownCamera, common_camera, find_known_camera
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError, collected_warnings, warn
from r2l_jax.results.files import replacing, write_csv, write_json
from r2l_jax.results.locks import writing_to

CAMERA = "camera.json"
# The correction files, by the field of the camera's JSON file that names each.
CORRECTIONS = {"dark": "dark.tiff", "flat": "flat.tiff", "defects": "defects.csv"}
CURVE, FIGURE = "photon_transfer.json", "photon_transfer.png"

# The values per site that are in electrons.
ELECTRONS = ("full_well", "read_noise", "dsnu")


def calibrate(
    dark: Sequence[str | os.PathLike],
    flat: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    camera: str = "auto",
    threshold: float = 6.0,
) -> Calibration:
    """Measures a sensor from frames, with a progress bar on stderr, and writes the results.

    - `<output>/camera.json`: the camera, with the measured black levels, full well, read noise and bits, and the names
      of the next three files. With "auto", it has only the measured fields; each raw file gives the rest.
    - `<output>/dark.tiff`: the mean dark frame, as fractions of the white level, in 32-bit floating point.
    - `<output>/flat.tiff`: the flat-field gain of each site, with mean 1 in each color, in the same format.
    - `<output>/defects.csv`: the row, column, kind and deviation in standard deviations of each defect.
    - `<output>/photon_transfer.json`, `photon_transfer.png`: the values of EMVA Standard 1288, and the curve that they
      were fitted to.

    Existing files of these names are replaced.

    Args:
        dark: raw files and folders of frames taken without light.
        flat: raw files and folders of frames of an evenly lit surface, at least two per exposure.
        output: the folder to write to.
        camera: the camera to start from, as for `find_known_camera`. Corrections that it names are not applied.
        threshold: the number of standard deviations beyond which a site is defective.

    Raises:
        InputError: a file cannot be read, would be overwritten, or is given twice; the frames do not match each other
            or the camera, are too few, or do not show the sensor (see `measure`); the output cannot be written.
    """
    darks, flats, output = find_paths(dark), find_paths(flat), Path(output)
    if shared := {file.resolve() for file in darks} & {file.resolve() for file in flats}:
        raise InputError(f"{min(shared)} is in both `dark` and `flat`")
    targets = {(output / name).resolve() for name in (CAMERA, CURVE, FIGURE, *CORRECTIONS.values())}
    for file in (*darks, *flats):
        if file.resolve() in targets:
            raise InputError(f"{file} is a frame and would be overwritten: choose another output folder")
    stated = dataclasses.replace(find_known_camera(camera), corrections=None)
    with collected_warnings():
        _, first = read_raw(darks[0], stated)
    dim: dict[Path, list[str]] = {}

    # Flat frames are read twice.
    with writing_to(output), tqdm(total=len(darks) + 2 * len(flats), unit="frame", disable=None) as progress:

        def mosaic(file: Path) -> Float32[np.ndarray, "rows cols"]:
            with collected_warnings() as dim[file]:
                frame, its_camera = read_raw(file, stated)
            common_camera([darks[0], file], [first, its_camera])
            progress.update()
            return frame

        def frames(files: Sequence[Path]) -> Frames:
            return Frames([str(file) for file in files], lambda index: mosaic(files[index]))

        measured = measure(frames(darks), frames(flats), isp.cfa.tile(first.pattern), threshold)
        for remark in measured.remarks:
            warn(remark)
        if all(dim[file] for file in flats):
            warn(dim[flats[0]][0])
        _write(output, _camera_fields(stated, first.pattern, measured), measured)
    return measured


def _camera_fields(stated: KnownCamera, pattern: str, measured: Calibration) -> dict[str, Any]:
    """Returns the fields of the camera's JSON file: the stated values, replaced by measured ones."""
    black = np.array([site.black_level for site in measured.sites])
    if not isp.cfa.is_bayer(pattern):
        channels = np.array([site.channel for site in measured.sites])
        black = np.array([black[channels == channel].mean() for channel in range(channels.max() + 1)])
    figures = {
        **stated.figures,
        "black_level": black * stated.figures.get("white_level", 1),
        **{name: float(f"{measured.mean(name):.5g}") for name in ("full_well", "read_noise")},
    }
    if measured.bits is not None:
        figures["bits"] = measured.bits
    fields = {name: np.asarray(value).tolist() for name, value in figures.items()}
    layout = {} if stated.layout is None else {"raw": msgspec.structs.asdict(stated.layout)}
    return fields | layout | CORRECTIONS


def _write(output: Path, camera: Mapping[str, Any], measured: Calibration) -> None:
    # Removed first and written last, so that the files that an existing camera names always belong to it.
    (output / CAMERA).unlink(missing_ok=True)
    for name in ("dark", "flat"):
        with replacing(output / CORRECTIONS[name]) as part:
            tifffile.imwrite(part, getattr(measured, name), photometric="minisblack", metadata=None)
    defects = measured.defects
    rows = [
        {"row": row, "column": column, "kind": kind, "figure": f"{figure:.1f}"}
        for (row, column), kind, figure in zip(defects.sites.tolist(), defects.kinds, defects.figures, strict=True)
    ]
    write_csv(output / CORRECTIONS["defects"], rows, ["row", "column", "kind", "figure"])
    write_json(output / CURVE, described(measured))
    with replacing(output / FIGURE) as part:
        FigureCanvasAgg(photon_transfer_curve(measured)).print_png(part)
    write_json(output / CAMERA, camera)


def summary(measured: Calibration) -> str:
    """Returns the measured values in three lines."""
    gain, number = measured.mean("gain"), measured.numbers
    noise = f"{'at most ' if measured.is_bound else ''}{measured.mean('read_noise'):.2f}"
    return (
        f"black level {', '.join(f'{site.black_level * number:.5g}' for site in measured.sites)} of {number:g}\n"
        f"{gain / number:.4g} electrons per digital number; full well {measured.mean('full_well'):.0f}, read noise "
        f"{noise}, DSNU {measured.mean('dsnu'):.2f} electrons; PRNU {measured.mean('prnu'):.2%}\n"
        f"defects: {', '.join(f'{measured.defects.count(kind)} {kind}' for kind in KINDS)}"
    )


def described(measured: Calibration) -> dict[str, Any]:
    """Returns the measured values for JSON, in digital numbers and in electrons."""
    number, names = measured.numbers, color_names(measured)
    gain = measured.mean("gain") / number
    return {
        "method": "photon transfer, after EMVA Standard 1288, release 4.0 linear",
        "white_level": number,
        "bits": measured.bits,
        "flats_of_each_exposure": list(measured.exposures),
        "defects": {kind: measured.defects.count(kind) for kind in KINDS},
        "electrons_per_number": gain,
        "numbers_per_electron": 1 / gain,
        "relative_error_of_gain": float(measured.error),
        "read_noise_is_upper_bound": measured.is_bound,
        **{f"{name}_electrons": measured.mean(name) for name in ELECTRONS},
        "prnu": measured.mean("prnu"),
        "dynamic_range_decibels": 20 * math.log10(measured.mean("full_well") / measured.mean("read_noise")),
        "sites": [
            {
                "row": site.row,
                "column": site.column,
                "color": names[site.channel],
                "black_level": site.black_level * number,
                "electrons_per_number": site.gain / number,
                **{f"{name}_electrons": getattr(site, name) for name in ELECTRONS},
                "prnu": site.prnu,
            }
            for site in measured.sites
        ],
        "curve": [
            {
                "color": names[point.channel],
                "mean": point.mean * number,
                "variance": point.variance * number**2,
                "fitted": point.fitted,
            }
            for point in measured.points
        ],
    }
