"""README.md and the guides in docs/: their commands, snippets and links, as a reader follows them."""

import importlib
import re
import shlex
import tomllib

import pytest
from absl import flags as absl_flags
from pages import PAGES, ROOT, code_blocks, commands, custom_stage

from r2l_jax.cli import flags

PROGRAMS = sorted(file.name for file in (ROOT / "scripts").glob("*.py"))
FLAGFILES = [
    ("study.py" if file.name.startswith("study") else "train.py", f"--flagfile=configs/{file.name}")
    for file in sorted((ROOT / "configs").glob("*.flags"))
]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [*((program, arguments) for program in PROGRAMS for arguments in commands(program)), *FLAGFILES],
)
def test_programs_accept_the_commands(tmp_path, monkeypatch, program, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "my_isp.py").write_text(custom_stage())
    settings = flags.settings_of(importlib.import_module(f"r2l_jax.programs.{program.removesuffix('.py')}").main)
    values = absl_flags.FlagValues()
    flags.define(settings, values)
    flags.parse(settings, "", [program, *shlex.split(arguments)], values)
    flags.read(settings, values)


def test_every_program_is_in_the_table_and_in_a_command():
    for program in PROGRAMS:
        assert f"| `scripts/{program}` |" in PAGES["docs/index.md"]
        assert commands(program)


SNIPPETS = [(page, snippet) for page, text in PAGES.items() for snippet in code_blocks("python", text)]


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_snippets_run(page, snippet):
    for package in re.findall(r"^(?:from|import) (torch\w*)", snippet, re.MULTILINE):
        pytest.importorskip(package)
    followed = ("README.md", "docs/monitoring.md", "docs/tutorial_microscope.md", "docs/tutorial_pytorch.md")
    followed += ("docs/tutorial_detector.md", "docs/tutorial_own_task.md")
    if page in followed or "import my_isp" in snippet:
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


def test_the_address_of_the_repository_is_that_of_the_package():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert f"\nrepository-code: {address}\n" in (ROOT / "CITATION.cff").read_text()
    cloned = {page: re.findall(r"git clone (\S+)", text) for page, text in PAGES.items()}
    assert {page for page, found in cloned.items() if found} >= {"README.md", "docs/quick_start.md"}
    assert {each for found in cloned.values() for each in found} == {address}


def test_package_citation_and_changelog_state_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\d\S*)", PAGES["docs/CHANGELOG.md"], re.MULTILINE)[1] == version
