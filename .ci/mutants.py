"""Changes the source in small ways, by cosmic-ray, and lists the changes that no quick test notices.

Usage, after `pytest -m "not slow" --cov=isp --cov=tasks --cov=r2l_jax --cov-context=test --junitxml=times.xml`:

    python .ci/mutants.py .coverage times.xml [--count=20] [--seed=0] [--minutes=5]

Files are drawn in proportion to their lines; in each file, places are drawn, and a mutant of each. Coverage knows which
tests run a mutant's line, or make a fixture that does. These tests, and those that may use the fixture, test the mutant
for about a minute: first those in the test file of its module, then the fastest.
"""

import argparse
import ast
import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import cosmic_ray.mutating
import cosmic_ray.plugins
import coverage
from cosmic_ray.commands.init import init
from cosmic_ray.testing import run_tests
from cosmic_ray.work_db import WorkDB, use_db

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("isp", "tasks", "r2l_jax")
# The tests of a mutant take about this many seconds.
BUDGET = 60
WORKERS = 2
# Most decorators compile or cache: without them, functions are slower, and otherwise the same.
LEFT_OUT = ("core/RemoveDecorator",)


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A change of a file.

    Attributes:
        path: the file, relative to the root.
        lines: the first and last line of the changed statement.
        operator: the change, by its name in cosmic-ray.
        occurrence: which of the places in the file where this operator applies, from 0.
        within: whether a function is changed, rather than what runs when the file is imported.
    """

    path: str
    lines: tuple[int, int]
    operator: str
    occurrence: int
    within: bool

    @property
    def room(self) -> str:
        """The room that the report counts it to."""
        folder, *rest = pathlib.Path(self.path).parts
        return folder if folder != "r2l_jax" or len(rest) == 1 else f"{folder}/{rest[0]}"


def draw(count: int, seed: int) -> list[Mutant]:
    """Draws mutants of all files."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    lines = [len(file.read_text().splitlines()) for file in files]
    chosen = random.Random(seed)
    drawn = collections.Counter(chosen.choices(files, lines, k=count))
    return [
        mutant
        for file in sorted(drawn)
        for mutant in _of_file(file, drawn[file], random.Random(f"{seed} {file.relative_to(ROOT)}"))
    ]


def _of_file(file: pathlib.Path, count: int, chosen: random.Random) -> list[Mutant]:
    tree = ast.parse(file.read_text())
    unread = {(node.lineno, node.col_offset, node.end_lineno, node.end_col_offset) for node in _annotations(tree)}
    with tempfile.TemporaryDirectory() as folder, use_db(f"{folder}/mutants.sqlite", WorkDB.Mode.create) as found:
        init([file], found, {})
        specs = [spec for item in found.work_items for spec in item.mutations]
    places = collections.defaultdict(list)
    for spec in specs:
        if spec.operator_name not in LEFT_OUT and not any(_contains(span, spec) for span in unread):
            places[spec.start_pos].append(spec)
    wanted = chosen.sample(sorted(places), min(count, len(places)))
    return [_mutant(file, tree, chosen.choice(places[place])) for place in wanted]


def _contains(span: tuple[int, int, int, int], spec) -> bool:
    return span[:2] <= spec.start_pos and spec.end_pos <= span[2:]


def _annotations(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            of = node.args
            arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs, of.vararg, of.kwarg]
            yield from filter(None, [node.returns, *(each.annotation for each in arguments if each)])
        elif isinstance(node, ast.AnnAssign):
            yield node.annotation


def _mutant(file: pathlib.Path, tree: ast.Module, spec) -> Mutant:
    line = spec.start_pos[0]
    around = [node for node in ast.walk(tree) if getattr(node, "lineno", line + 1) <= line <= (node.end_lineno or 0)]
    statements = [node for node in around if isinstance(node, ast.stmt)]
    first = last = line
    if statements:  # Decorators are in none.
        inner = max(statements, key=lambda node: node.lineno)
        # The body of a compound statement is not a part of its head.
        end = inner.body[0].lineno - 1 if hasattr(inner, "body") else inner.end_lineno
        first, last = inner.lineno, max(end, line)
    functions = [node for node in statements if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    within = any(node.body[0].lineno <= line for node in functions)
    return Mutant(str(file.relative_to(ROOT)), (first, last), spec.operator_name, spec.occurrence, within)


def _key(case: xml.etree.ElementTree.Element) -> tuple[str, str]:
    return case.get("classname", ""), case.get("name", "")


def _collected() -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    listed = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if "::" in line]


class Chooser:
    """Chooses the tests of lines.

    Args:
        covered: the data of coverage, with a context for each test.
        times: the JUnit report of the same tests.
    """

    def __init__(self, covered: str, times: str) -> None:
        self._data = coverage.CoverageData(covered)
        self._data.read()
        self._measured = {tuple(pathlib.Path(name).parts): name for name in self._data.measured_files()}
        self._seconds: dict[str, float] = {}
        self._of_file = collections.defaultdict(list)
        cases = list(xml.etree.ElementTree.parse(times).iter("testcase"))
        skipped = {_key(case) for case in cases if case.find("skipped") is not None}
        seconds = {_key(case): float(case.get("time", 0)) for case in cases}
        for test in _collected():
            file, _, rest = test.partition("::")
            name, bracket, parameters = rest.partition("[")
            *classes, function = name.split("::")
            key = ".".join([file.removesuffix(".py").replace("/", "."), *classes]), function + bracket + parameters
            if key not in skipped:
                # The report escapes the names of some parameters.
                self._seconds[test] = seconds.get(key, 1)
                self._of_file[file].append(test)

    def __call__(self, path: str, lines: tuple[int, int], within: bool) -> list[str]:
        """Chooses the tests of these lines of a file, of its functions if the lines run at its import."""
        parts = pathlib.Path(path).parts
        name = next((name for of, name in self._measured.items() if of[-len(parts) :] == parts), None)
        contexts = self._data.contexts_by_lineno(name) if name else {}
        wanted = range(lines[0], lines[1] + 1) if within else contexts
        names = {context for line in wanted for context in contexts.get(line, ()) if context}
        running = {context.rpartition("|")[0] for context in names}
        # Coverage names only the first test that needs a fixture; other tests in its file may use it as well.
        files = {context.partition("::")[0] for context in names if context.endswith("|setup")}
        own = str(pathlib.Path("tests", *parts[:-1], f"test_{parts[-1].lstrip('_')}"))
        # Programs that run as processes of their own have no contexts.
        files |= {own} if not within or not running else set()
        tests = {test for test in running if test in self._seconds} | {t for file in files for t in self._of_file[file]}
        order = sorted(tests, key=lambda test: (not test.startswith(own), test not in running, self._seconds[test]))
        spent = itertools.accumulate((self._seconds[test] for test in order), initial=0.0)
        return [test for test, before in zip(order, spent, strict=False) if before < BUDGET]


def run(tree: pathlib.Path, tests: list[str]) -> tuple[bool, str]:
    """Runs tests in a tree, and returns whether one fails, and its name, or how many pass."""
    listed = tree / ".mutants_tests"
    listed.write_text("\n".join(tests))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command = f"env --chdir={tree} PYTHONPATH={tree} {sys.executable} -m pytest -x -q --no-header --tb=line @{listed}"
    outcome, output = run_tests(command, timeout=10 * BUDGET)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    said = failed[1] if failed else output.strip().rpartition("\n")[2]
    return outcome.value != "survived", said


def tested(mutant: Mutant, tree: pathlib.Path, choose: Chooser) -> dict[str, object]:
    """Tests a mutant in a tree."""
    tests = choose(mutant.path, mutant.lines, mutant.within)
    operator = cosmic_ray.plugins.get_operator(mutant.operator)
    with cosmic_ray.mutating.use_mutation(tree / mutant.path, operator(), mutant.occurrence) as (before, after):
        pairs = zip(before.splitlines(), (after or "").splitlines(), strict=False)
        line, old, new = next((number, *pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        killed, said = run(tree, tests) if tests else (False, "no test runs it")
    return {
        "file": f"{mutant.path}:{line}",
        "room": mutant.room,
        "old": old.strip(),
        "new": new.strip(),
        "killed": killed,
        "by": said,
    }


def main() -> None:
    """Tests mutants, prints those that survive, and counts them by room."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coverage")
    parser.add_argument("times")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant later")
    flags = parser.parse_args()
    choose, counts = Chooser(flags.coverage, flags.times), collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        trees = queue.Queue[pathlib.Path]()
        for number in range(WORKERS):
            tree = pathlib.Path(folder, f"tree{number}")
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
            if (compiled := ROOT / ".pytest_cache").exists():
                shutil.copytree(compiled, tree / ".pytest_cache")
            trees.put(tree)

        def work(mutant: Mutant) -> dict[str, object] | None:
            if time.monotonic() > end:
                return None
            tree = trees.get()
            try:
                return tested(mutant, tree, choose)
            finally:
                trees.put(tree)

        mutants, end = draw(flags.count, flags.seed), time.monotonic() + 60 * flags.minutes
        random.Random(flags.seed).shuffle(mutants)
        for found in concurrent.futures.as_completed([pool.submit(work, mutant) for mutant in mutants]):
            if (result := found.result()) is not None:
                counts[result["room"]].append(result["killed"])
                if not result["killed"]:
                    print("survived {file} ({by})\n  - {old}\n  + {new}".format(**result), flush=True)
    for room, killed in [*sorted(counts.items()), ("all", [each for of in counts.values() for each in of])]:
        print(f"{room:24} {sum(killed):4} of {len(killed):4} killed")


if __name__ == "__main__":
    main()
