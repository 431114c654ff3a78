"""Few files are decoded, and none is hashed, before the first sample of a folder."""

import json

import dng
import numpy as np
import pytest
import tifffile
from PIL import Image

from r2l_jax.data.files import arrays, file_metadata, libraw, pictures
from r2l_jax.data.sets import datasets

FILES = 50
SAMPLES = np.random.default_rng(0).integers(0, 65536, (FILES, 32, 48)).astype(np.uint16)
DEFLATE = tifffile.COMPRESSION.ADOBE_DEFLATE


def write(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tiff":
        tifffile.imwrite(path, samples, compression="zlib", metadata=None)
    elif path.suffix == ".png":
        Image.fromarray(samples).save(path)
    elif path.suffix == ".npy":
        np.save(path, samples)
    elif path.suffix == ".pgm":
        path.write_bytes(b"P5 48 32 65535\n" + samples.astype(">u2").tobytes())
    else:
        dng.write(path, samples, black=(99,) * 4, white=65535)


@pytest.fixture
def decoded(monkeypatch, tmp_path):
    """The number of decoded files and of hashed files; a cache that has none of them."""
    counts = {"decoded": 0, "hashed": 0}

    def counted(function, kind="decoded"):
        def call(*arguments, **options):
            counts[kind] += 1
            return function(*arguments, **options)

        return call

    class Counted(libraw.rawpy.RawPy):
        unpack = counted(libraw.rawpy.RawPy.unpack)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(file_metadata, "_TICK", 0)
    monkeypatch.setattr(file_metadata, "_sha256", counted(file_metadata._sha256, "hashed"))
    monkeypatch.setattr(libraw.rawpy, "RawPy", Counted)
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {DEFLATE: counted(tifffile.TIFF.DECOMPRESSORS[DEFLATE])})
    monkeypatch.setattr(pictures.zlib, "decompressobj", counted(pictures.zlib.decompressobj))
    monkeypatch.setattr(arrays, "_native", counted(arrays._native))
    return counts


@pytest.mark.parametrize("suffix", ["tiff", "png", "npy", "pgm", "dng"])
def test_the_first_sample_of_a_folder_needs_two_decodings_of_one_file(tmp_path, decoded, suffix):
    """One for the samples, and an earlier one to see whether the white level fits."""
    for index, samples in enumerate(SAMPLES):
        write(tmp_path / f"data/{'ab'[index % 2]}/{index:02d}.{suffix}", samples)
    dataset = datasets.load("Folder", data_dir=tmp_path / "data", camera="drone")
    assert (len(dataset), dataset[0][0].shape) == (FILES, (32, 32))
    assert decoded == {"decoded": 2, "hashed": 0}
    for index in range(FILES):
        dataset.read(index)
    assert decoded == {"decoded": 2 + FILES, "hashed": 0}


def test_the_first_frame_with_boxes_needs_two_decodings_of_one_file(tmp_path, decoded):
    for index, samples in enumerate(SAMPLES):
        write(tmp_path / f"data/{index:02d}.tiff", samples)
    images = [{"id": index, "file_name": f"{index:02d}.tiff"} for index in range(FILES)]
    coco = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "nut"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    dataset = datasets.load("Folder", data_dir=tmp_path / "data", camera="drone", annotations=tmp_path / "coco.json")
    assert dataset[0][0].shape == (32, 48)
    assert decoded == {"decoded": 2, "hashed": 0}


def test_frames_are_decoded_once_to_be_cut_and_then_only_tiles(tmp_path, decoded):
    """A mask is read to check its values, and again to be cut; then the first sample is a tile, whose mask is a PNG."""
    for index, samples in enumerate(SAMPLES):
        write(tmp_path / f"data/images/{index:02d}.tiff", samples)
        write(tmp_path / f"data/masks/{index:02d}.png", (samples > 40000).astype(np.uint8))
    options = {"data_dir": tmp_path / "data", "camera": "drone", "tile_size": 32}
    datasets.load("Folder", **options)
    assert decoded == {"decoded": FILES + 2 * FILES, "hashed": 2 * FILES}
    again = datasets.load("Folder", **options)
    assert again[0][1].shape == (32, 32)
    assert decoded == {"decoded": FILES + 2 * FILES + 1, "hashed": 2 * FILES}
