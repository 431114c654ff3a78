import dataclasses
import io
import zipfile

import programs
import pytest
from b2sdk.v2 import B2Api, B2HttpApiConfig, InMemoryAccountInfo, RawSimulator

from r2l_jax.data.fetch import b2
from r2l_jax.data.fetch import download as downloads
from r2l_jax.data.fetch.download import download
from r2l_jax.errors import InputError

IMAGES, LABELS = "Data histopathology/WhiteCellsImages", "Data histopathology/WhiteCellsLabels"
SCALES = ("001", "005", "010", "025", "050", "075", "100")


class Server:
    """A B2 simulated by b2sdk, with one bucket and a list of the requested downloads."""

    def __init__(self):
        self.raw = RawSimulator()
        self.config = B2HttpApiConfig(_raw_api_class=lambda http: self.raw)
        self.key_id, self.key = self.raw.create_account()
        self.api = B2Api(InMemoryAccountInfo(), api_config=self.config)
        self.api.authorize_account("production", self.key_id, self.key)
        self.bucket = self.api.create_bucket("data", "allPrivate")
        self.asked = []
        self._download = self.raw.download_file_from_url
        self.raw.download_file_from_url = self._count

    def _count(self, token, url, *arguments, range_=None, **options):
        response = self._download(token, url, *arguments, range_=range_, **options)
        self.asked.append((response.response.headers["x-bz-file-name"].rsplit("/", 1)[-1], range_))
        return response

    def put(self, files):
        for name, content in files.items():
            self.bucket.upload_bytes(content, name)

    def account(self, **changes):
        given = {"bucket": "data", "key_id": self.key_id, "key": self.key, "api_config": self.config}
        return b2.Account(**(given | changes))

    def fetch(self, place, **changes):
        b2.download_folders(self.account(**changes), {"folder": place})


@pytest.fixture
def server():
    return Server()


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def microscopy():
    """Returns the files of Raw-Microscopy in the bucket, with one intensity in an archive, and the files to expect."""
    images = {f"raw_scale{scale}/Ma190c_1.tiff": f"raw {scale}".encode() for scale in SCALES}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("raw_scale100/Ma190c_1.tiff", images["raw_scale100/Ma190c_1.tiff"])
    loose = {f"{IMAGES}/{name}": content for name, content in images.items() if "scale100" not in name}
    marks = {f"{IMAGES}/.bzEmpty": b"", f"{LABELS}/.bzEmpty": b"", f"{IMAGES}/raw_scale001/.bzEmpty": b""}
    labels = {"Ma190c_annotations.dat": b"Ma190c_1 BAS\n"}
    bucket = {f"{LABELS}/{name}": content for name, content in labels.items()} | loose | marks
    bucket[f"{IMAGES}/raw_scale100.zip"] = packed.getvalue()
    disk = {f"images/{name}": content for name, content in images.items()}
    return bucket, disk | {f"labels/{name}": content for name, content in labels.items()}


def test_microscopy_is_downloaded_in_the_published_layout_and_only_once(server, tmp_path):
    bucket, disk = microscopy()
    server.put(bucket | {f"{IMAGES}_other/x": b"in a folder whose name starts with the same words"})
    account = server.account()
    assert download("Microscopy", tmp_path, "b2", b2_account=account) == tmp_path / "microscopy"
    found = contents(tmp_path / "microscopy")
    assert found.pop(".unpacked.json")
    assert found == disk
    server.asked.clear()
    download("Microscopy", tmp_path, "b2", b2_account=account)
    assert server.asked == []
    (tmp_path / "microscopy/images/raw_scale100/Ma190c_1.tiff").unlink()
    (tmp_path / "microscopy/images/raw_scale005/Ma190c_1.tiff").write_bytes(b"cut")
    download("Microscopy", tmp_path, "b2", b2_account=account)
    assert sorted(name for name, _ in server.asked) == ["Ma190c_1.tiff", "raw_scale100.zip"]
    assert contents(tmp_path / "microscopy").items() >= disk.items()


@pytest.mark.shows("download --source --data_dir --b2_bucket --b2_key_id --b2_key")
def test_the_program_takes_the_bucket_and_the_key_that_are_named(server, tmp_path, monkeypatch):
    def simulated(*arguments, b2_account, **options):
        account = dataclasses.replace(b2_account, api_config=server.config)
        return download(*arguments, b2_account=account, **options)

    monkeypatch.setattr(downloads, "download", simulated)
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "another")
    monkeypatch.setenv("B2_APPLICATION_KEY", "another")
    bucket, disk = microscopy()
    server.put(bucket)
    flags = ("--b2_bucket=data", f"--b2_key_id={server.key_id}", f"--b2_key={server.key}", f"--data_dir={tmp_path}")
    done = programs.call("download.py", "--dataset=Microscopy", "--source=b2", *flags)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/microscopy\n"), done.stderr
    assert contents(tmp_path / "microscopy").items() >= disk.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "wrong secret"}, "bucket data, key account-0: .*secret key is wrong"),
        ({"bucket": "elsewhere"}, "bucket elsewhere, key account-0: No such bucket: elsewhere"),
    ],
)
def test_a_refused_key_is_one_line_without_the_key(server, tmp_path, changes, message):
    server.put({"folder/x": b"x"})
    with pytest.raises(InputError, match=f"^B2: .*{message}") as caught:
        server.fetch(tmp_path / "in", **changes)
    assert "wrong secret" not in str(caught.value)
    assert "wrong secret" not in repr(server.account(key="wrong secret"))
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {}


def test_the_account_is_given_or_in_the_environment(monkeypatch):
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "id")
    monkeypatch.delenv("B2_APPLICATION_KEY", raising=False)
    with pytest.raises(InputError, match="set B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY, or pass `b2_key_id`"):
        b2.find_account("data")
    assert (b2.find_account("data", key="flag").key_id, b2.find_account("data", key="flag").key) == ("id", "flag")
    monkeypatch.setenv("B2_APPLICATION_KEY", "environment")
    assert b2.find_account("data").key == "environment"
    assert b2.find_account("data", "other").key_id == "other"
