import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile

import numpy as np
import programs
import pytest
import requests
import tifffile
from servers import serving

from r2l_jax.data.fetch import download
from r2l_jax.data.fetch.fetched import get
from r2l_jax.errors import InputError
from r2l_jax.results.locks import writing_to

RNG = np.random.default_rng(0)
SCALES = ("001", "005", "010", "025", "050", "075", "100")


def tiff(shape=(4, 6)):
    file = io.BytesIO()
    tifffile.imwrite(file, RNG.integers(0, 65536, shape).astype(np.uint16))
    return file.getvalue()


# The published layouts with tiny files, except for one picture that arrives in several pieces.
LARGE = {"100": (320, 320)}
STEM = "Ma190c_lame1_zone1_composite_Mcropped_1"
TREES = {
    "Microscopy": {f"microscopy/images/raw_scale{s}/{STEM}.tiff": tiff(LARGE.get(s, (4, 6))) for s in SCALES}
    | {"microscopy/labels/Ma190c_annotations.dat": f"{STEM} BAS\n".encode()},
    "Drone": {f"drone/images_full/raw_scale{s}/DJI_0001.tif": tiff() for s in SCALES}
    | {"drone/masks_full/DJI_0001.png": b"a mask"},
}


def pack_zip(tree):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            # Without the time, so that its hash is the same in all processes that run tests.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def pack_tar(tree):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def renamed(tree, *replacements):
    for old, new in replacements:
        tree = {re.sub(old, new, name): content for name, content in tree.items()}
    return tree


ARCHIVE = pack_zip(TREES["Microscopy"])
NAME = "raw-microscopy.zip"
PIECE = 2**16


class Zenodo:
    """A record of Zenodo's on loopback, with `files` by name.

    `fields` are wrong fields for the list of files, `sends` other bytes to send for a file, and `status` is the HTTP
    status of files. After `drops` bytes each, the next connections end. `asked` is the range of each request, or None.
    """

    def __init__(self, files):
        self.files, self.asked, self.drops, self.ranges = files, [], [], True
        self.fields, self.sends, self.status, self.url = {}, {}, 200, ""

    def record(self):
        files = [
            {
                "key": key,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/records/5235536/files/{key}/content"},
            }
            | self.fields
            for key, content in self.files.items()
        ]
        return json.dumps({"files": files}).encode()

    def answer(self, path, given):
        path = path.removeprefix("/api/records/5235536")
        if not path:
            return 200, {}, [self.sends.get("record", self.record())]
        name = path.split("/")[2]
        body = self.sends.get(name, self.files[name])
        self.asked.append(given["Range"])
        status = self.status
        if given["Range"] and self.ranges:
            status, body = 206, body[int(re.fullmatch(r"bytes=(\d+)-", given["Range"])[1]) :]
        return status, {"Content-Length": len(body)}, [body[: self.drops.pop(0)] if self.drops else body]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Makes pooch wait for nothing between two tries."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


@pytest.fixture
def zenodo():
    zenodo = Zenodo({NAME: ARCHIVE})
    with serving(zenodo.answer) as url:
        zenodo.url = f"{url}/api"
        yield zenodo


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def split(tree, part):
    return {name: content for name, content in tree.items() if part in name}


PACKINGS = {
    "zip": lambda tree: {"raw-{}.zip": pack_zip(tree)},
    "tar.gz in a folder, upper case": lambda tree: {
        "RAW_{}.TAR.GZ": pack_tar(renamed(tree, ("^", "./data/")) | {"data/README": b""})
    },
    "another folder and names of the bucket": lambda tree: {
        "{}.zip": pack_zip(renamed(tree, ("drone/(images|masks)_full", r"drone/\1"), ("^[a-z]*/", "Raw data/")))
    },
    "archives in the archive": lambda tree: {
        "{}.zip": pack_zip(
            {name: content for name, content in tree.items() if "raw_scale100" not in name}
            | {
                f"{next(iter(tree)).split('/raw_scale')[0]}/raw_scale100.zip": pack_zip(
                    renamed(split(tree, "raw_scale100"), (".*/raw_scale100", "raw_scale100"))
                )
            }
        )
    },
}


@pytest.mark.parametrize("dataset", TREES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_zenodo_is_downloaded_in_the_published_layout_and_only_once(zenodo, tmp_path, dataset, packing):
    folder = dataset.lower()
    files = {name.format(folder): content for name, content in PACKINGS[packing](TREES[dataset]).items()}
    others = {"readme.txt": b"", f"{folder}-datasheet.pdf": b"", "views.zip": pack_zip({"x": b""})}
    zenodo.files = files | others
    for _ in range(2):
        assert download.download(dataset, tmp_path, zenodo_url=zenodo.url) == tmp_path / folder
        found = contents(tmp_path)
        assert json.loads(found.pop(f"{folder}/.unpacked.json")).keys() == files.keys()
        assert {name: content for name, content in found.items() if "README" not in name} == TREES[dataset]
        assert zenodo.asked == [None] * len(files)


def fetch(zenodo, place, dataset="Microscopy"):
    return download.download(dataset, place, zenodo_url=zenodo.url)


def check_complete(place):
    found = contents(place)
    found.pop("microscopy/.unpacked.json")
    assert found == TREES["Microscopy"]


@pytest.mark.shows("download --zenodo_url --data_dir")
def test_the_program_downloads_from_a_mirror_into_the_folder_that_is_named(zenodo, tmp_path):
    done = programs.call("download.py", "--dataset=Microscopy", f"--zenodo_url={zenodo.url}", f"--data_dir={tmp_path}")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/microscopy\n"), done.stderr
    check_complete(tmp_path)


@pytest.mark.shows("download --dataset")
def test_the_program_downloads_the_data_set_that_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(download, "download", lambda name, *_, **__: asked.append(name))
    for name in TREES:
        programs.call("download.py", f"--dataset={name}", "--data_dir=somewhere")
    assert asked == [*TREES] == ["Microscopy", "Drone"]


def test_a_dropped_connection_is_continued(zenodo, tmp_path):
    zenodo.drops = [100_000, 70_000]
    fetch(zenodo, tmp_path)
    check_complete(tmp_path)
    assert zenodo.asked[0] is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in zenodo.asked[1:]]
    assert len(starts) == 2
    # At most one piece is lost.
    assert 100_000 - PIECE < starts[0] <= 100_000
    assert 70_000 - PIECE < starts[1] - starts[0] <= 70_000


@pytest.mark.parametrize(
    ("part", "ranges", "asked"),
    [
        (ARCHIVE[:1000], True, ["bytes=1000-"]),
        (ARCHIVE[:1000], False, ["bytes=1000-"]),
        (b"?" * 1000, True, ["bytes=1000-", None]),
        (b"?" * len(ARCHIVE), True, [None]),
        (ARCHIVE, True, []),
    ],
    ids=["resumed", "ignored", "other bytes", "wrong bytes", "complete"],
)
def test_the_part_of_an_earlier_call_is_continued_or_replaced(zenodo, tmp_path, part, ranges, asked):
    (tmp_path / f"{NAME}.part").write_bytes(part)
    # A killed download leaves a temporary file of pooch there.
    (left := tmp_path / f".{NAME}.fetched").mkdir()
    (left / "tmpb2zq0x1s").touch()
    zenodo.ranges = ranges
    fetch(zenodo, tmp_path)
    check_complete(tmp_path)
    assert zenodo.asked == asked
    assert not left.exists()


def test_an_existing_archive_is_checked_and_used(zenodo, tmp_path):
    (tmp_path / NAME).write_bytes(ARCHIVE)
    fetch(zenodo, tmp_path)
    check_complete(tmp_path)
    assert zenodo.asked == []
    shutil.rmtree(tmp_path / "microscopy")
    (tmp_path / NAME).write_bytes(b"the user's own")
    with pytest.raises(InputError, match=rf"{NAME} exists but does not match the checksum of {NAME}: move it"):
        fetch(zenodo, tmp_path)
    assert contents(tmp_path) == {NAME: b"the user's own"}


SPOILT = ARCHIVE[:-1] + b"?"


@pytest.mark.parametrize(
    ("changes", "message", "left"),
    [
        ({"sends": {NAME: SPOILT}}, rf"^{NAME}: .*{hashlib.md5(SPOILT).hexdigest()}", []),
        ({"sends": {NAME: ARCHIVE[:9]}}, rf"the connection ended after 9 of {len(ARCHIVE)} bytes", [f"{NAME}.part"]),
        ({"ranges": False, "drops": [80_000] * 9}, r"IncompleteRead", [f"{NAME}.part"]),
        ({"status": 503}, rf"^{NAME}: 503 Server Error: Service Unavailable", []),
        (
            {"sends": {"record": b'{"files": [{"key": "x"}]}'}},
            "not a Zenodo record .* missing required field `size`",
            [],
        ),
        ({"files": {"a.zip": b"", "b.txt": b""}}, r"an archive with microscopy .*, found a.zip, b.txt$", []),
        ({"fields": {"checksum": "foo:12"}}, r"matching regex .*md5.* - at `\$.files\[0\].checksum`$", []),
        ({"fields": {"key": "../microscopy.zip"}}, r"leads out of its folder", []),
    ],
)
def test_an_error_is_one_line_and_leaves_no_incomplete_file(zenodo, tmp_path, changes, message, left):
    for name, value in changes.items():
        setattr(zenodo, name, value)
    with pytest.raises(InputError, match=message) as caught:
        fetch(zenodo, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert sorted(contents(tmp_path)) == [f"data/{name}" for name in left]


def test_redirects_never_leave_https(monkeypatch):
    urls = ["https://a.org/", "http://b.org/", "https://c.org/"]
    responses = [requests.Response() for _ in urls]
    for response, url in zip(responses, urls, strict=True):
        response.url, response.status_code, response.raw = url, 200, io.BytesIO()
    responses[-1].history = responses[:-1]
    monkeypatch.setattr(requests, "get", lambda url, **options: responses[-1])
    with pytest.raises(InputError, match=r"^https://a.org/: the server redirects from HTTPS"):
        get("https://a.org/")
    assert get("http://a.org/") is responses[-1]


INCOMPLETE = pack_zip(
    {name: content for name, content in TREES["Microscopy"].items() if "025" not in name and "labels" not in name}
)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"no archive", "truncated, corrupt or not a valid ZIP"),
        (pack_zip({"x/y": b"", "z": b""}), "expected a folder microscopy, found x, z"),
        (INCOMPLETE, "missing after unpacking: images/raw_scale025, labels/Ma190c_annotations.dat"),
    ],
)
def test_a_refused_archive_stays_and_is_not_downloaded_again(zenodo, tmp_path, archive, message):
    zenodo.files = {NAME: archive}
    for _ in range(2):
        with pytest.raises(InputError, match=f"{NAME}.*{message}"):
            fetch(zenodo, tmp_path)
        assert contents(tmp_path) == {NAME: archive}
    assert zenodo.asked == [None]


def test_no_network_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^http://127.0.0.1:9/api/records/5235536: .*Connection refused$"):
        download.download("Drone", tmp_path, zenodo_url="http://127.0.0.1:9/api/")


def test_messages_have_no_password(zenodo, tmp_path):
    zenodo.url, zenodo.status = zenodo.url.replace("://", "://me:p@ss@"), 503
    with pytest.raises(InputError) as caught:
        fetch(zenodo, tmp_path)
    assert "http://***@127.0.0.1" in str(caught.value)
    assert "ss@" not in str(caught.value)


def test_a_locked_folder_and_files_of_another_origin_are_not_touched(zenodo, tmp_path):
    with writing_to(tmp_path), pytest.raises(InputError, match=r"another program is writing to this folder"):
        fetch(zenodo, tmp_path)
    fetch(zenodo, tmp_path)
    labels = tmp_path / "microscopy/labels/Ma190c_annotations.dat"
    labels.rename(labels.with_name("mine.dat"))
    there = contents(tmp_path)
    with pytest.raises(InputError, match=r"microscopy exists but differs from .*: move it, or"):
        fetch(zenodo, tmp_path)
    assert contents(tmp_path) == there
