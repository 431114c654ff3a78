import fsspec
import numpy as np
import pytest
import tifffile
from programs import call

from r2l_jax.cli.flags import build
from r2l_jax.programs import process


@pytest.fixture(scope="module")
def s3():
    """A storage on this machine with an empty bucket, which programs and their workers find by the environment."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        started.start()
        host, port = started.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("bucket")
        yield system
        started.stop()


@pytest.fixture(scope="module")
def raw(s3, tmp_path_factory):
    """A folder of mosaics and one damaged file; the bucket has a copy of it."""
    folder, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(70):
        tifffile.imwrite(folder / f"{number:03}.tiff", rng.integers(5000, 30000, (48, 40), np.uint16))
    (folder / "007.tiff").write_bytes(b"no file")
    s3.put(f"{folder}/", "bucket/raw/", recursive=True)
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


def errors(done):
    """The errors that a program has listed."""
    return [line for line in done.stderr.replace("\r", "\n").splitlines() if line.lstrip().startswith("error: ")]


def test_pictures_of_files_in_a_storage_in_memory_are_those_of_files_on_a_disk(tmp_path):
    raw = np.random.default_rng(0).integers(5000, 30000, (48, 40), np.uint16)
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "a.tiff", raw)
    storage = fsspec.filesystem("memory")
    storage.put(f"{tmp_path}/raw/", "/pictures/", recursive=True)
    for number, place in enumerate((str(tmp_path / "raw"), "memory://pictures")):
        output = str(tmp_path / f"{number}")
        config = build(process.RenderConfig, input=(place,), output=output, camera="drone", format="png")
        assert process.main(config) == 0
    storage.rm("/pictures", recursive=True)
    assert contents(tmp_path / "0").keys() == {"a.png"}
    assert contents(tmp_path / "0") == contents(tmp_path / "1")


# Warnings come from the packages of the server and the client.
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_pictures_of_files_on_object_storage_are_those_of_files_on_a_disk(raw, tmp_path):
    serial = call("process.py", "--camera=drone", "--format=png", f"--input={raw}", f"--output={tmp_path}/out")
    flags = ("--camera=drone", "--format=png", "--input=s3://bucket/raw", f"--output={tmp_path}/pictures")
    done = call("process.py", *flags)
    assert (done.returncode, done.stdout) == (1, serial.stdout), done.stderr
    assert contents(tmp_path / "pictures") == contents(tmp_path / "out")
    assert [line.replace(str(raw), "s3://bucket/raw") for line in errors(serial)] == errors(done)
    again = call("process.py", *flags)
    assert again.stdout == "31 rendered, 1 failed, 38 rendered earlier\n"
