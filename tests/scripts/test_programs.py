"""Each program does its smallest real job, and refuses wrong flags in one line."""

import functools
import json
import math
import socket

import numpy as np
import pytest
import report_runs
import tifffile
from flawed_sensor import FlawedSensor, write_frames
from PIL import Image
from programs import call, program
from report_pages import Page

# The flags of a job, a part of its output, and files that it writes.
QUICK = {
    "calibrate": (
        "--dark={here}/dark --flat={here}/flat --camera={here}/base.json --output={out}",
        "\ndefects: 2 hot, 2 dead, 2 flickering\n",
        ["camera.json", "dark.tiff", "defects.csv", "flat.tiff", "photon_transfer.json", "photon_transfer.png"],
    ),
    "process": (
        "--input={here}/raw/a --output={out} --camera={here}/base.json --format=png --stages",
        "2 rendered, 0 failed\n",
        ["0.png", "0_stages.png", "1.png", "1_stages.png", "manifest.csv", "result.json"],
    ),
    "unprocess": (
        "--input={here}/photos --output={out} --camera=drone --exposure=0.5 --full_well=1e12 --read_noise=0 --bits=8",
        "1 written, 0 failed; of the sites, 0.00% saturate and ",
        ["camera.json", "cats"],
    ),
    "report": (
        "--run={here}/first,{here}/second --output={out}/a.html --compare",
        "\n\nfirst - second: no paired difference: python scripts/evaluate.py has not tested first and second\n\n{out}",
        ["a.html"],
    ),
}
# Programs whose results the report shows are run for it below.
SLOW = {
    "benchmark": ("--rows=denoise_bilateral --json --repeats=5", '"name": "denoise_bilateral"', []),
    "export": (
        "--run={run} --output={out}/exported --input={here}/raw/a/0.tiff --parts=isp,head --formats=stablehlo,camera",
        "\nhead.stablehlo: differs by ",
        ["exported/isp.stablehlo", "exported/head.stablehlo", "exported/camera.json", "exported/model.json"],
    ),
    "predict": ("--run={run} --input={here}/raw/a --output={out}/p.csv", "2 predicted, 0 failed\n", ["p.csv"]),
    "process": ("--run={run} --input={here}/raw/a --output={out}", "2 rendered, 0 failed\n", ["0.tiff", "1.tiff"]),
    "synthesize": (
        "--dataset=Folder --data_dir={here}/raw --camera=drone --output={out}/drifted --exposures=0.5 "
        "--corruptions=contrast --severities=1,5",
        "6 sets of 4 pictures each in {out}/drifted\n",
        ["drifted/parametrized/own/uncorrupted/result.json"],
    ),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with frames of a sensor, raw files of two classes, and the records of two runs."""
    folder = tmp_path_factory.mktemp("here")
    write_frames(
        folder, FlawedSensor(shape=(64, 64), hot=2, dead=2, flickering=2), darks=8, exposures=(0.3, 0.6), flats=4
    )
    rng = np.random.default_rng(0)
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "raw" / f"{name}.tiff", rng.integers(9000, 60000, (32, 32), np.uint16))
    (folder / "photos" / "cats").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8)).save(folder / "photos" / "cats" / "1.png")
    report_runs.write_everything(folder / "first")
    report_runs.write_run(folder / "second", start=500, lr=0.5, folds=2)
    return folder


def check(start, name, flags, printed, files, **places):
    """Runs a job in this process (`call`) or by its script (`program`), and checks its output and its files."""
    done = start(f"{name}.py", *flags.format(**places).split())
    assert done.returncode == 0, done.stderr
    assert printed.format(**places) in done.stdout
    assert not [file for file in files if not (places["out"] / file).stat().st_size]
    return done


@pytest.mark.parametrize("name", QUICK)
def test_a_program_does_its_smallest_job(here, tmp_path, name):
    done = check(call, name, *QUICK[name], here=here, out=tmp_path)
    assert done.stderr == ""  # Progress bars are for terminals.
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != ".parts") == QUICK[name][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_program_does_its_smallest_job_with_a_trained_run(trained_run, here, tmp_path, name):
    # The bars of the benchmark are for optimized code, which other tests do without.
    optimized = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)} if name == "benchmark" else {}
    start = functools.partial(program, environment=optimized.items())
    check(start, name, *SLOW[name], here=here, out=tmp_path, run=trained_run)


@pytest.mark.slow
def test_the_results_of_all_programs_are_in_the_report(trained_run, tmp_path):
    commands = [
        ("evaluate.py", "--against=pipelines,corruptions", "--corruptions=contrast", "--severities=1,2"),
        ("forensics.py", "--analyses=sensitivity,worst_case", "--adv_parameters=white_balance", "--steps=2"),
        ("adjust.py", "--exposures=0.25", "--steps=2", "--labeled=8", "--unlabeled=8", "--method=all", "--force"),
    ]
    for name, *flags in commands:
        done = program(name, f"--run={trained_run}", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"python scripts/report.py --run={trained_run}"
    done = program("report.py", f"--run={trained_run}", f"--output={tmp_path}/report.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "report.html").read_text())
    shown, count = page.values(), 0
    for file in trained_run.rglob("result.json"):
        for table in json.loads(file.read_text())["tables"].values():
            cells = [cell[0] if isinstance(cell, list) else cell for row in table["rows"] for cell in row]
            numbers = {cell for cell in cells if isinstance(cell, float) and math.isfinite(cell)}
            assert numbers <= shown, (file, table["title"])
            count += len(numbers)
    assert count > 50


NO_FOLD = "nowhere is not a run's folder with a fold_0: not found"
REFUSED = [
    ("adjust", "--run=nowhere --exposures=0.5", NO_FOLD),
    ("benchmark", "--rows=menon", "no row's name begins with 'menon'"),
    ("download", "--dataset=Drone --data_dir=x --source=b2", "needs an application key"),
    ("evaluate", "--run=x --against=pipelines --severities=1", "--severities has no effect without --against=sensor|"),
    ("export", "--output=out --run=x --size=512,767", "--size must be an even height and an even width, such as"),
    ("forensics", "--run=x --analyses=tolerances --steps=3", "--steps has no effect without --analyses=worst_case"),
    ("lab", "--input=none.dng", "none.dng: no such file"),
    ("lab", "--port={taken}", "cannot listen on --port={taken}: Address already in use"),
    ("monitor", "--run=x --input=raw --follow --level=0.1", "--level has no effect with --follow"),
    ("predict", "--input=raw --output=p.csv --run=nowhere", NO_FOLD),
    ("process", "--input=raw --output=out --camera=phone", "got 'phone'"),
    ("process", "--input=raw --output=out --run=r --half_size", "--run=r is the processing: leave --half_size out"),
    ("report", "--run=a --compare", "--compare takes two or more runs, got --run=a"),
    ("study", "--scheduler=local", "--scheduler must be serial, local:<number of processes>"),
    (
        "synthesize",
        "--output=out --dataset=Folder --data_dir=raw --camera=drone --pipelines=x",
        "no pipeline is called 'x'",
    ),
    ("train", "--run_name=r --sp_debayer=menon2007", "--sp_debayer has no effect without --processing_mode=static"),
    ("train", "--run_name=r --dataset=Folder --synthetic_size=64", "--synthetic_size has no effect without --dataset="),
]


@pytest.mark.parametrize(("name", "flags", "message"), REFUSED)
def test_refused_flags_are_one_line(here, monkeypatch, name, flags, message):
    if name == "lab":
        pytest.importorskip("nicegui")
    monkeypatch.chdir(here)
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "1")
    monkeypatch.delenv("B2_APPLICATION_KEY", raising=False)
    before = [file for file in here.rglob("*") if file.is_file()]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(f"{name}.py", *flags.format(taken=port).split())
    assert (done.returncode, done.stdout) == (1, "")
    # Programs that read files report their progress before.
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"{name}.py: error: ")
    assert message.format(taken=port) in last
    assert "Traceback" not in done.stderr
    assert [file for file in here.rglob("*") if file.is_file()] == before
