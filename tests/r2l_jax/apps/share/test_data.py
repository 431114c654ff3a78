import csv
import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
import r2l_jax
from r2l_jax.apps.share import cards
from r2l_jax.apps.unprocess import unprocess_folder
from r2l_jax.errors import InputError
from r2l_jax.programs import card as program

mlcroissant = pytest.importorskip("mlcroissant")

# Of rdflib, which mlcroissant reads JSON-LD with.
pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")

CAMERA = {"black_level": [0.0625] * 4, "white_balance": [2, 1, 1.5], "color_matrix": np.eye(3).tolist()}


@pytest.fixture
def root(tmp_path):
    """A folder with a camera."""
    root = tmp_path / "cells"
    root.mkdir()
    (root / "camera.json").write_text(json.dumps(CAMERA))
    return root


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.random.default_rng(seed).integers(0, 65536, (8, 12), np.uint16))


def described(root, capsys=None, **settings):
    """Runs the program, and loads what it has written with mlcroissant, which checks the hashes of files."""
    program.main(program.CardConfig(data_dir=str(root), camera=str(root / "camera.json"), **settings))
    return loaded(root)


def loaded(root):
    found = mlcroissant.Dataset(root / "croissant.json")
    assert str(found.metadata.ctx.conforms_to.value) == "http://mlcommons.org/croissant/1.1"
    assert not found.metadata.ctx.issues.errors
    return found


def records(found, name):
    """The records of a set by the names of their fields, with texts in place of bytes."""
    rows = [{key.split("/")[1]: value for key, value in row.items()} for row in found.records(name)]
    return [{key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()} for row in rows]


@pytest.mark.shows("card --license --creator --sensitive", "card DataSettings")
def test_classes_groups_and_the_camera_are_records(root):
    for name in ("BAS/p1_a", "BAS/p2_b", "EOS/p1_c"):
        write(root / f"{name}.tiff")
    found = described(root, group=r"(p\d)_", license="cc-by-4.0", creator="Jane Doe", sensitive="none")
    assert records(found, "samples") == [
        {"file": "BAS/p1_a.tiff", "class": "BAS", "group": "p1"},
        {"file": "BAS/p2_b.tiff", "class": "BAS", "group": "p2"},
        {"file": "EOS/p1_c.tiff", "class": "EOS", "group": "p1"},
    ]
    assert records(found, "classes") == [{"name": "BAS"}, {"name": "EOS"}]
    (camera,) = records(found, "cameras")
    assert isp.Camera.from_json(camera["values"]) == isp.Camera(**CAMERA)
    about = found.metadata
    assert (about.license, about.creators[0].name) == (["cc-by-4.0"], "Jane Doe")
    assert about.personal_sensitive_information == ["none"]
    (files,) = about.file_sets
    assert set(files.includes) == {"BAS/*.tiff", "EOS/*.tiff"}
    # What nobody has said is asked for in the card, and left out of the metadata.
    card = (root / "README.md").read_text()
    assert "License: cc-by-4.0" in card
    assert "| BAS | 2 |\n| EOS | 1 |" in card
    assert "There are 2 groups" in card
    assert "Who labeled them, and how: [to be filled in by the owners of the data:" in card
    assert about.data_annotation_protocol is None
    assert "imulated" not in card


def test_masks_are_records_of_pictures(root):
    for stem, value in (("1", 255), ("2", 0)):
        write(root / "images" / f"{stem}.tiff")
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 12), value, np.uint8)).save(root / "masks" / f"{stem}_mask.png")
    found = described(root, tile_size=8)
    assert records(found, "samples") == [
        {"file": f"images/{stem}.tiff", "mask": f"masks/{stem}_mask.png"} for stem in ("1", "2")
    ]
    pictures = {row["file"]: np.asarray(row["mask"]) for row in records(found, "mask_files")}
    assert {name: (each.shape[:2], each.max()) for name, each in pictures.items()} == {
        "masks/1_mask.png": ((8, 12), 255),
        "masks/2_mask.png": ((8, 12), 0),
    }
    assert not list(root.glob("tiles*"))
    assert "values above 0 where the object is" in (root / "README.md").read_text()


def test_boxes_and_numbers_are_records_of_their_file(root, tmp_path):
    for stem in ("a", "b"):
        write(root / "frames" / f"{stem}.tiff")
    coco = {
        "images": [{"id": 7, "file_name": "frames/a.tiff"}, {"id": 8, "file_name": "frames/b.tiff"}],
        "annotations": [{"id": 1, "image_id": 8, "category_id": 3, "bbox": [1, 2, 5, 4.5]}],
        "categories": [{"id": 3, "name": "car"}],
    }
    (root / "my boxes.json").write_text(json.dumps(coco))
    found = described(root, annotations=str(root / "my boxes.json"))
    assert records(found, "annotations") == [{"image_id": 8, "category_id": 3, "bbox": [1, 2, 5, 4.5]}]
    assert records(found, "images")[1] == {"id": 8, "file_name": "frames/b.tiff"}
    assert records(found, "categories") == [{"id": 3, "name": "car"}]
    assert records(found, "samples") == [{"file": "frames/a.tiff"}, {"file": "frames/b.tiff"}]
    (root / "count.csv").write_text("name,cell count\nframes/a.tiff,3\nframes/b.tiff,5\n")
    found = described(root, annotations=str(root / "count.csv"))
    assert records(found, "numbers") == [
        {"name": "frames/a.tiff", "cell_count": 3},
        {"name": "frames/b.tiff", "cell_count": 5},
    ]
    (tmp_path / "elsewhere.csv").write_text((root / "count.csv").read_text())
    with pytest.raises(InputError, match=r"elsewhere.csv must be in .*cells, to be shared with it$"):
        described(root, annotations=str(tmp_path / "elsewhere.csv"))


@pytest.mark.shows("card --limitations")
def test_raw_images_made_of_pictures_say_so_also_after_more_is_said(tmp_path):
    for name in ("cats/1.png", "dogs/2.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "photos" / name)
    root = tmp_path / "raw"
    unprocess_folder(tmp_path / "photos", root, isp.CAMERAS["drone"], exposure=0.5)
    found = loaded(root)
    assert records(found, "samples") == [
        {"file": "cats/1.tiff", "class": "cats"},
        {"file": "dogs/2.tiff", "class": "dogs"},
    ]
    for limits in ((), ("few animals",)):
        if limits:
            found = described(root, limitations=limits[0])
        simulated, *others = found.metadata.data_limitations
        assert simulated.startswith("Simulated, not photographed: r2l_jax unprocess has inverted")
        assert "at 0.5 times their light" in simulated
        assert tuple(others) == limits
        assert "**Simulated data.** r2l_jax unprocess" in (root / "README.md").read_text()


def test_files_read_with_the_published_camera_are_those_of_the_training(root):
    """The white level lies below the largest value that a file can hold."""
    (root / "camera.json").write_text(json.dumps({**CAMERA, "black_level": [256] * 4, "white_level": 4095}))
    raw = np.random.default_rng(0).integers(256, 4096, (8, 12), np.uint16)
    for name in ("BAS", "EOS"):
        (root / name).mkdir()
        tifffile.imwrite(root / name / "a.tiff", raw)
    found = described(root, creator="Jane Doe, jane@example.org")
    (camera,) = records(found, "cameras")
    samples, published = r2l_jax.data.read_raw(root / "BAS" / "a.tiff", isp.Camera.from_json(camera["values"]))
    np.testing.assert_allclose(samples, raw / np.float32(4095), rtol=1e-6)
    np.testing.assert_allclose(published.black_level, 256 / 4095, rtol=1e-6)
    assert "| white level | 4095" in (root / "README.md").read_text()
    (creator,) = found.metadata.creators
    assert (creator.name, creator.email) == ("Jane Doe", "jane@example.org")


def test_each_of_several_cameras_is_published_with_its_own_white_level(root):
    (root / "camera.json").unlink()
    levels = {"scanner": 4095, "scope": 16383}
    for part, white in levels.items():
        for name in ("BAS", "EOS"):
            write(root / part / name / "a.tiff")
        content = {**CAMERA, "black_level": [white / 16] * 4, "white_level": white}
        (root / part / "camera.json").write_text(json.dumps(content))
    program.main(program.CardConfig(data_dir=str(root), camera="auto"))
    found = {each["name"]: isp.Camera.from_json(each["values"]) for each in records(loaded(root), "cameras")}
    assert {name: camera.white_level for name, camera in found.items()} == levels
    for camera in found.values():
        assert camera.black_level == pytest.approx([1 / 16] * 4)


@pytest.mark.shows("synthesis.synthesis manifest.csv: group")
def test_synthesized_sets_say_what_is_simulated(tmp_path):
    settings = {"synthetic_images": 10, "synthetic_size": 32, "pipelines": ["parametrized"], "data_dir": tmp_path / "d"}
    raws = np.random.default_rng(0).uniform(0, 1, (6, 16, 16)).astype(np.float32)
    camera = isp.Camera(**CAMERA)
    taken = r2l_jax.data.from_arrays(raws, [0, 1, 0, 1, 0, 1], camera, groups=list("ppaabb"))
    r2l_jax.synthesize(output=tmp_path / "phantoms", **settings)
    drifts = {"output": tmp_path / "taken", "pipelines": ["parametrized"], "exposures": [0.5], "format": "png"}
    r2l_jax.synthesize(taken, **drifts)
    phantoms, clean, dim = (
        loaded(each.parent)
        for folder in ("phantoms", "taken")
        for each in sorted((tmp_path / folder).rglob("croissant.json"))
    )
    assert "embedded data set" in phantoms.metadata.data_limitations[0]
    assert clean.metadata.data_limitations is None
    assert "The drift light=0.5 was added by computation." in dim.metadata.data_limitations[0]
    rows = records(dim, "samples")
    with next((tmp_path / "taken").rglob("manifest.csv")).open(newline="") as file:
        assert [row["file"] for row in rows] == [row["file"] for row in csv.DictReader(file)]
    assert [row["group"] for row in rows] == list("ppaabb")
    (root,) = (tmp_path / "taken").glob("*/light*/*")
    program.main(program.CardConfig(data_dir=str(root), license="mit"))
    again = loaded(root)
    assert (again.metadata.data_limitations, records(again, "samples")) == (dim.metadata.data_limitations, rows)
    assert "License: mit" in (root / "README.md").read_text()
    r2l_jax.synthesize(taken, **drifts)
    assert "License: mit" in (root / "README.md").read_text()
    r2l_jax.synthesize(taken, **drifts, seed=1)
    assert "License: mit" not in (root / "README.md").read_text()
    every = re.escape(str(tmp_path / "taken"))
    with pytest.raises(
        InputError, match=f"^`data_dir={every}` holds sets of synthesize.py: give one, such as {every}/.*/un"
    ):
        program.main(program.CardConfig(data_dir=str(tmp_path / "taken")))
    with pytest.raises(InputError, match=r"^`group` has no effect on a set that synthesize\.py has written"):
        program.main(program.CardConfig(data_dir=str(root), group="folder"))


@pytest.mark.shows("card --description --citation --collection --annotation")
def test_a_card_that_was_edited_stays(root, capsys):
    for name in ("BAS/a", "EOS/b"):
        write(root / f"{name}.tiff")
    described(root)
    card = root / "README.md"
    described(root, license="mit")
    assert "License: mit" in card.read_text()
    assert "README.md: fill in what it asks for" in capsys.readouterr().out
    mine = card.read_text().replace(cards.MARK, "").replace("mit", "bsd-3-clause")
    card.write_text(mine)
    said = {"description": "Cells.", "citation": "@misc{doe}", "collection": "by hand", "annotation": "by two"}
    described(root, license="cc0-1.0", **said)
    assert card.read_text() == mine
    assert "README.md: has been edited, and stays as it is" in capsys.readouterr().out
    metadata = json.loads((root / "croissant.json").read_text())
    assert (metadata["license"], metadata["description"]) == ("cc0-1.0", "Cells.")
    named = {"citation": "citeAs", "collection": "rai:dataCollection", "annotation": "rai:dataAnnotationProtocol"}
    assert {name: metadata[term] for name, term in named.items()} == {name: said[name] for name in named}


def test_a_card_needs_a_folder():
    with pytest.raises(InputError, match=r"^`data_dir` is missing"):
        program.CardConfig()
