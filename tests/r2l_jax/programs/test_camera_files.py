"""What programs say of a camera's JSON file that they cannot use."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from programs import call

_FLAGS = {
    "unprocess.py": ["--input=photos", "--output=out"],
    "calibrate.py": ["--dark=raw/a", "--flat=raw/b", "--output=out"],
    "train.py": ["--dataset=Folder", "--data_dir=raw", "--logdir=out"],
    "export.py": ["--run={run}", "--input=raw/a", "--output=out"],
}


@pytest.mark.parametrize("program", _FLAGS)
def test_a_camera_file_that_cannot_be_used_is_one_line(one_epoch, tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    camera = {"black_level": [0.1] * 4, "white_balance": [2, 0, 1], "color_matrix": np.eye(3).tolist()}
    Path("camera.json").write_text(json.dumps(camera))
    for name in ("a", "b"):
        for folder in ("raw", "photos"):
            Path(folder, name).mkdir(parents=True)
        tifffile.imwrite(f"raw/{name}/{name}.tif", np.full((64, 64), 500, np.uint16))
        Image.new("RGB", (64, 64)).save(f"photos/{name}/{name}.png")
    flags = [flag.format(run=one_epoch.run_dir) for flag in _FLAGS[program]]
    done = call(program, *flags, "--camera=camera.json")
    assert done.returncode == 1
    assert "white_balance must have no gain of 0, got (2.0, 0.0, 1.0)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("out").exists()
