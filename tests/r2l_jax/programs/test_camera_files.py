"""What programs say of a camera's JSON file that they cannot use."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from programs import call

_FLAGS = {
    "process.py": ["--input=raw/a", "--output=out", "--camera"],
    "unprocess.py": ["--input=photos", "--output=out", "--camera"],
    "calibrate.py": ["--dark=raw/a", "--flat=raw/b", "--output=out", "--camera"],
    "train.py": ["--dataset=Folder", "--data_dir=raw", "--logdir=out", "--camera"],
    "predict.py": ["--run={run}", "--input=raw/a", "--output=out/p.csv", "--camera"],
    "export.py": ["--run={run}", "--input=raw/a", "--output=out", "--camera"],
    "forensics.py": ["--run={run}", "--check"],
}


_GAIN = ({"white_balance": [2, 0, 1]}, "white_balance must have no gain of 0, got (2.0, 0.0, 1.0)")
_LEVEL = (
    {"black_level": [64, 64, 64, 64]},
    "black_level must be a fraction of the white level below 1, got [64.0, 64.0, 64.0, 64.0]: for digital "
    "numbers, state the white_level",
)
_MISSING = (None, "got 'camera.json': not found")


@pytest.mark.parametrize(
    ("program", "fields", "message"),
    [*((program, *_GAIN) for program in _FLAGS), ("process.py", *_LEVEL), ("process.py", *_MISSING)],
)
def test_a_camera_file_that_cannot_be_used_is_one_line(one_epoch, tmp_path, monkeypatch, program, fields, message):
    monkeypatch.chdir(tmp_path)
    if fields is not None:
        whole = {"black_level": [0.1] * 4, "white_balance": [2, 1, 2], "color_matrix": np.eye(3).tolist(), **fields}
        Path("camera.json").write_text(json.dumps(whole))
    for name in ("a", "b"):
        for folder in ("raw", "photos"):
            Path(folder, name).mkdir(parents=True)
        tifffile.imwrite(f"raw/{name}/{name}.tif", np.full((64, 64), 500, np.uint16))
        Image.new("RGB", (64, 64)).save(f"photos/{name}/{name}.png")
    *flags, camera = _FLAGS[program]
    flags = [flag.format(run=one_epoch.run_dir) for flag in flags]
    done = call(program, *flags, f"{camera}=camera.json")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("out").exists()
