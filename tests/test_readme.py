"""README.md and the guides in docs/: their commands, snippets and links, as a reader follows them."""

import importlib.util
import re
import shlex
import sys
import tomllib

import pytest
from absl import app, flags
from pages import PAGES, ROOT, code_blocks, commands, own_stage

from r2l_jax.runtime import hosts, jobs, startup

# For each program, the functions that do its work once its flags are read.
WORK = {
    "adjust.py": ("r2l_jax.drift.adjustment.adaptation.run",),
    "benchmark.py": ("r2l_jax.bench.benchmark.run",),
    "calibrate.py": ("r2l_jax.apps.calibrate.calibrate",),
    "download.py": ("r2l_jax.data.fetch.download.download",),
    "evaluate.py": ("r2l_jax.drift.synthesis.evaluation.run",),
    "export.py": ("r2l_jax.training.run.load",),
    "forensics.py": ("r2l_jax.drift.forensics.forensics.run", "r2l_jax.drift.forensics.forensics.check"),
    "lab.py": ("r2l_jax.apps.lab.lab.check_installed",),
    "monitor.py": ("r2l_jax.apps.monitor.run",),
    "predict.py": ("r2l_jax.training.run.load",),
    "process.py": ("r2l_jax.apps.render.render_files", "r2l_jax.runtime.remote.named"),
    "report.py": ("r2l_jax.apps.report.page.write_report", "r2l_jax.apps.report.runs.read_runs"),
    "sheet.py": ("r2l_jax.drift.synthesis.sheets.run",),
    "study.py": ("r2l_jax.apps.study.study.run", "r2l_jax.apps.study.study.dry_run"),
    "synthesize.py": ("r2l_jax.drift.synthesis.synthesis.run",),
    "train.py": ("r2l_jax.training.train.run",),
    "unprocess.py": ("r2l_jax.apps.unprocess.unprocess_folder",),
}


class Begun(BaseException):
    """A program has accepted its flags and begins its work. No handler of errors catches this."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with the files that the commands name, as the current one."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_isp.py").write_text(own_stage())
    _, headerless = code_blocks("json", PAGES["docs/sensors.md"])
    (tmp_path / "camera.json").write_text(headerless)
    (tmp_path / "my_camera.json").write_text(code_blocks("json", PAGES["docs/own_data.md"])[0])
    raw_files = ("IMG_0001.dng", "more_raw_files/IMG_0002.dng", "raw/IMG_0003.dng", "frame.bin")
    for name in (*raw_files, "my_cells/lymphocyte/1.tiff", "field/tuesday/000.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start(home, monkeypatch):
    """A function that starts a program, which raises `Begun` instead of its work."""

    def run(main, flags_parser):
        raise SystemExit(main(flags_parser(sys.argv)))

    def work(*args, **kwargs):
        raise Begun

    def start(program, arguments):
        monkeypatch.setattr(sys, "argv", [program, *shlex.split(arguments)])
        # A fresh copy of the module, whose names are bound to the functions as they are now.
        spec = importlib.util.find_spec(f"r2l_jax.programs.{program.removesuffix('.py')}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.run()

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(startup, "prepare", lambda *arguments: None)
    monkeypatch.setattr(hosts, "meet", lambda *arguments: None)
    # Which needs the extra cluster.
    monkeypatch.setattr(jobs, "prepare", lambda scheduler: None)
    for functions in WORK.values():
        for function in functions:
            monkeypatch.setattr(function, work)
    before = set(flags.FLAGS)
    yield start
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


FLAGFILES = [
    ("study.py" if file.name.startswith("study") else "train.py", f"--flagfile=configs/{file.name}")
    for file in sorted((ROOT / "configs").glob("*.flags"))
]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [*((program, arguments) for program in WORK for arguments in commands(program)), *FLAGFILES],
)
def test_programs_accept_the_commands(start, program, arguments):
    with pytest.raises(Begun):
        start(program, arguments)


def test_every_program_is_in_the_table_and_in_a_command():
    scripts = {script.name for script in (ROOT / "scripts").glob("*.py")}
    assert scripts == set(WORK)
    for script in scripts:
        assert f"| `scripts/{script}` |" in PAGES["docs/programs.md"]
        assert commands(script)


SNIPPETS = [(page, snippet) for page, text in PAGES.items() for snippet in code_blocks("python", text)]


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_snippets_run(page, snippet):
    for package in re.findall(r"^(?:from|import) (torch\w*)", snippet, re.MULTILINE):
        pytest.importorskip(package)
    if page in ("docs/monitor.md", "docs/your_model.md"):
        pytest.skip("tests/docs/test_guides.py runs it")
    exec(compile(snippet, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_files_named_exist(page):
    named = re.findall(r"\b(?:scripts|configs|tests|docs|isp|tasks|r2l_jax)/(?:[\w.]+/)*\w+\.\w+", PAGES[page])
    for path in named:
        assert (ROOT / path).is_file(), path
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[\w-]+)?\)", PAGES[page])
    for link in links:
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_extras_named_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"'\.\[(\w+)\]'", "\n".join(PAGES.values())))
    assert {"test", "dev", "docs", "bench", "cuda12"} <= named
    assert named <= set(extras)


def test_package_citation_and_changelog_state_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\d\S*)", PAGES["docs/CHANGELOG.md"], re.MULTILINE)[1] == version
