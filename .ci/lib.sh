# shellcheck shell=bash
# What the scripts in this folder share. Each sources this file in the root of a checkout.

# The extras whose tests the newest Python runs.
EXTRAS=onnx,cluster,cloud_test,microscopy

# readme_line START: prints the one line of README.md that begins with START, a regular expression.
readme_line() {
    if [[ $(grep -c "^$1" README.md) != 1 ]]; then
        echo "README.md must have one line that begins with $1" >&2
        return 1
    fi
    grep "^$1" README.md
}

# timed COMMAND...: runs a command, and prints it with the seconds that it took.
timed() {
    local start=$SECONDS command=$*
    echo "+ ${command#eval }"
    "$@"
    echo "+ ${command#eval }: $((SECONDS - start)) s"
}

# in_clone STEP...: takes the steps in a clean clone of the last commit, which is removed at the end.
in_clone() {
    if [[ -n $(git status --porcelain) ]]; then
        echo "note: changes that are not committed are not checked"
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    git clone --quiet . "$work/clone"
    cd "$work/clone" || return
    # Temporary files of the tests go with the folder.
    mkdir "$work/tmp"
    export TMPDIR=$work/tmp PIP_DISABLE_PIP_VERSION_CHECK=1
    for step in "$@"; do
        "$step"
    done
}

# in_environment PYTHON "PIP_ARGUMENTS" STEP...: makes an environment, and takes the steps there.
in_environment() (
    folder=$(mktemp -d "$work/environment.XXXX")
    "$1" -m venv "$folder"
    export PATH=$folder/bin:$PATH
    # Only the modules that are imported need bytecode.
    timed pip install --quiet --no-compile $2
    python -c 'import sys, jax; print("Python", sys.version.split()[0], "with JAX", jax.__version__)'
    for step in "${@:3}"; do
        "$step"
    done
)

build_docs() {
    timed sphinx-build -q -W --keep-going -b html -d "$work/doctrees" docs "$work/html"
    timed sphinx-build -q -W --keep-going -b coverage_check -d "$work/doctrees" docs "$work/coverage"
    # The other environments have no Sphinx, and skip these tests. The slow ones have their turn among the slow tests.
    timed pytest -q -m "not slow" tests/docs
}

# Runs the README's first command as on a fresh machine: nothing in the user's cache folder but pip's own cache.
train_quick_start() (
    command=$(readme_line 'python3 -m venv')
    export PIP_CACHE_DIR=${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}
    export XDG_CACHE_HOME=$work/cache
    timed eval "$command"
    .venv/bin/python - <<'EOF'
import json, sys

accuracy = json.load(open("runs/quickstart/parametrized/summary.json"))["val_accuracy"]["mean"]
if accuracy < 0.85:
    sys.exit(f"the quick start must reach a validation accuracy of 0.85, got {accuracy:.4f}")
print(f"the quick start reached a validation accuracy of {accuracy:.4f}")
EOF
)

# The tests of the page start Chromium. Where it is missing and cannot be installed, they are skipped.
install_browser() {
    timed .venv/bin/pip install --quiet -e '.[browser]' -c constraints.txt
    if ! command -v chromium && [[ $(id -u) == 0 ]] && command -v apt-get; then
        timed apt-get update -qq && timed apt-get install -qq -y --no-install-recommends chromium || true
    fi
    command -v chromium || echo "note: no Chromium: the tests of the page are skipped"
}

# A twentieth of the slow tests, another one each day. The first failure ends the checks; if time runs out, pytest says
# what ran, and the twentieth's next turn begins with other files.
slow_twentieth() {
    local day=$(($(date +%s) / 86400)) ended=0
    echo "+ slow tests, twentieth $((day % 20))"
    timeout --signal=INT --kill-after=1m 6m .venv/bin/pytest -n 2 --dist=loadfile -rs -x -m slow --slow_twentieth=$day || ended=$?
    if [[ $ended == 124 || $ended == 137 ]]; then
        echo "note: 6 minutes were not enough for this twentieth of the slow tests; those that ran passed"
    else
        return "$ended"
    fi
}

# The tests with the Python of the environment on PATH, and without Flax's graph mode, as will be its default. Prints the
# share of the lines that ran in the tests' own processes, so not of the programs that they start.
run_tests() {
    NNX_GRAPH_MODE=false COVERAGE_CORE=sysmon \
        timed eval "${tests#.venv/bin/} --cov=isp --cov=tasks --cov=r2l_jax --cov-report="
    echo "lines that the quick tests run: $(coverage report --format=total)%"
}

# Builds the wheel, and uses what it holds besides modules: the report's templates and the study's published scores.
use_wheel() {
    timed .venv/bin/pip wheel --quiet --no-deps --wheel-dir "$work/wheel" .
    timed .venv/bin/pip install --quiet --no-deps --target "$work/installed" "$work"/wheel/*.whl
    local python=$PWD/.venv/bin/python run=$PWD/runs/quickstart/parametrized
    (
        cd "$work"
        export PYTHONPATH=$work/installed
        "$python" - <<'EOF'
import pathlib, r2l_jax
from r2l_jax.apps.study import published

assert pathlib.Path(r2l_jax.__file__).is_relative_to(pathlib.Path("installed").resolve()), r2l_jax.__file__
assert r2l_jax.__version__, "a version"
assert published.published("classification").source, "scores"
EOF
        timed "$python" -c "from r2l_jax.programs import start; start('report')" --run="$run" --output="$work/report.html"
    )
    grep -q "</html>" "$work/report.html"
}

# Prints "MAJOR MINOR" of a Python, and nothing for one that does not start or is no final release.
version() {
    "$1" -c 'import sys; v = sys.version_info; v.releaselevel == "final" and print(v.major, v.minor)' 2>/dev/null || true
}

# Prints the newest Python: `python3` unless another one is newer.
newest_python() {
    for python in python3 /usr/bin/python3 $(compgen -c python3. | grep -x 'python3\.[0-9]*' | sort -u); do
        echo "$(version "$python") $python"
    done | grep '^3 ' | sort -s -k 2,2nr | head -n 1 | cut -d ' ' -f 3
}

# check_pinned TESTS STEP...: the checks with the versions of constraints.txt, in a clone. TESTS is the README's command, or
# one like it; the steps follow it.
check_pinned() {
    tests=$1
    in_environment python3 "-e .[dev] -c constraints.txt" .ci/check build_docs
    train_quick_start
    use_wheel
    install_browser
    timed eval "$tests"
    for step in "${@:2}"; do
        "$step"
    done
    newest=$(newest_python)
    if [[ $newest == python3 ]]; then
        echo "note: no Python on this machine is newer than python3: the tests run on one Python only"
    fi
    # With the packages of exports, clusters, object storage and microscopes, whose tests are skipped without them.
    in_environment "$newest" "-e .[test,$EXTRAS] -c constraints.txt" run_tests
    echo "All checks passed in $SECONDS s."
}
