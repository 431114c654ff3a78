from pathlib import Path

import numpy as np
import tifffile

import isp
from r2l_jax.apps import files as loop
from r2l_jax.apps.files import Cameras, closing, for_each_file, frame_by_frame
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.errors import InputError
from r2l_jax.jobs import Ended


def test_each_frame_has_its_own_result_or_error(tmp_path):
    files = [tmp_path / f"{name}.npy" for name in ("a", "gone", "odd", "z")]
    for number, file in enumerate(files):
        if file.stem != "gone":
            np.save(file, np.full(3, number))

    def work(file, raw):
        if file.stem == "odd":
            raise InputError("it is odd")
        return int(raw.sum())

    ended = list(frame_by_frame(files, np.load, work))
    assert [each.item for each in ended] == files
    assert [each.result for each in ended] == [0, None, None, 9]
    assert "No such file" in ended[1].error
    assert [each.error for each in (ended[0], *ended[2:])] == [None, f"{files[2]}: it is odd", None]


def test_a_chunk_is_worked_on_again_while_any_of_its_files_fails(tmp_path, monkeypatch):
    """The files stay as they are: what failed was, say, the connection."""
    monkeypatch.setattr(loop, "BATCH", 2)
    files = [tmp_path / f"{number}.npy" for number in range(6)]
    for file in files:
        np.save(file, np.zeros(2))

    def called(failing):
        worked = []

        def work(context, chunk):
            for file in chunk:
                worked.append(int(file.stem))
                failed = worked[-1] in failing
                yield Ended(file, *((None, "no connection") if failed else (file.stem, None)))

        kept = {"settings": {}, "models": [], "targets": lambda file: []}
        done = for_each_file(files, work, None, chunks=tmp_path / "chunks", **kept)
        assert list(done.results) == [file for number, file in enumerate(files) if number not in failing]
        return worked, done.counts

    assert called({1, 4, 5}) == ([0, 1, 2, 3, 4, 5], (3, 3))
    assert called({4}) == ([0, 1, 4, 5], (3, 1))
    assert called({}) == ([4, 5], (2, 0))
    assert called({}) == ([], (0, 0))


def test_only_files_without_calibration_values_have_the_stored_camera(tmp_path, write_dng):
    raw, drone = np.full((24, 32), 2000, np.uint16), isp.CAMERAS["drone"]
    tifffile.imwrite(tmp_path / "a.tiff", raw)
    cameras = Cameras(KnownCamera(), KnownCamera.of(drone))
    assert cameras.read(tmp_path / "a.tiff")[1].white_balance == drone.white_balance
    file = write_dng(raw, "a.dng", neutral=(0.4, 1.0, 0.8))
    np.testing.assert_allclose(cameras.read(file)[1].white_balance, (2.5, 1, 1.25), rtol=1e-3)


def test_the_last_line_counts_all_files():
    files = [Path("a.dng")] * 6
    assert closing((2, 1), files, "rendered") == "2 rendered, 1 failed, 3 rendered earlier"
    assert closing((5, 1), files, "rendered") == "5 rendered, 1 failed"
