"""The programs make the same of raw files on object storage as of files on a disk."""

import numpy as np
import pytest
import tifffile
from lost_workers import errors
from programs import call

from r2l_jax.runtime import jobs

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

# Warnings come from the packages of the server and the client.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def s3():
    """A storage on this machine with an empty bucket, which programs and their workers find by the environment."""
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


def on_disk(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pictures(files):
    """The pictures without the results, which name the raw files by their paths."""
    return {name: content for name, content in files.items() if name.endswith(".png")}


def test_pictures(raw, tmp_path):
    flags = ("--camera=drone", "--format=png")
    serial = call("process.py", *flags, f"--input={raw}", f"--output={tmp_path}/out")
    flags = (*flags, "--input=s3://bucket/raw", f"--output={tmp_path}/pictures")
    done = call("process.py", *flags)
    assert (done.returncode, done.stdout) == (1, serial.stdout), done.stderr
    assert pictures(on_disk(tmp_path / "pictures")) == pictures(on_disk(tmp_path / "out"))
    assert [line.replace(str(raw), "s3://bucket/raw") for line in errors(serial)] == errors(done)
    again = call("process.py", *flags)
    assert again.stdout == "31 rendered, 1 failed, 38 had been rendered before\n"


def test_predictions(raw, one_epoch, tmp_path):
    run = f"--run={one_epoch.run_dir}"
    serial = call("predict.py", run, f"--input={raw}", f"--output={tmp_path}/p.csv")
    done = call("predict.py", run, "--input=s3://bucket/raw", f"--output={tmp_path}/s3.csv")
    assert (done.returncode, done.stdout) == (1, serial.stdout), done.stderr
    table = (tmp_path / "p.csv").read_bytes()
    assert (tmp_path / "s3.csv").read_bytes() == table.replace(str(raw).encode(), b"s3://bucket/raw")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input=s3://none/raw", "--output=out"], "s3://none/raw: no such file"),
        (
            ["--input=s3://bucket/raw", "--output=s3://bucket/out"],
            "--output must be on this machine, got s3://bucket/out",
        ),
        (["--input=nowhere://raw", "--output=out"], "nowhere://raw: Unsupported filesystem: 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(s3, raw, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    done = call("process.py", "--camera=drone", *flags)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"process.py: error: {message}\n")


def test_an_address_that_cannot_be_reached_is_said(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(type(s3), "_cache", {})  # Of storages that have been reached.
    done = call("process.py", "--camera=drone", "--input=s3://elsewhere/raw", f"--output={tmp_path}/out")
    assert done.returncode == 1
    assert done.stderr.startswith("process.py: error: s3://elsewhere/raw: Could not connect to the endpoint URL")
    assert done.stderr.count("\n") == 1


def test_workers_are_sent_addresses(raw, monkeypatch, tmp_path):
    import pickled_jobs

    monkeypatch.setattr(jobs, "run_elsewhere", pickled_jobs.run_elsewhere)
    flags = ("--camera=drone", "--input=s3://bucket/raw", f"--output={tmp_path}/sent", "--scheduler=local:2")
    done = call("process.py", *flags)
    assert done.stdout == "69 rendered, 1 failed\n", done.stderr
    assert len(pictures(on_disk(tmp_path / "sent"))) == 69
