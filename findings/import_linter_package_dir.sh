#!/usr/bin/env bash
# import-linter 2.17 (grimp 3.20) does not see a subpackage that setuptools' package_dir takes from another
# folder while the project is installed editable: `import app.models` works, but an exhaustive contract that
# does not list app.models is reported as kept. The same project installed as a wheel is checked in full, and the
# same contract is broken. So the answer depends on the kind of install: what an editable install maps from
# elsewhere may import what it likes.
#
# Seen: editable "Contracts: 1 kept, 0 broken.", wheel "Contracts: 0 kept, 1 broken." (Python 3.11, setuptools 80.9.0).
# Exits with 1 if either has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  setuptools==80.9.0 import-linter==2.17 grimp==3.20

project=$folder/project
mkdir -p "$project/app" "$project/models"
touch "$project/app/__init__.py" "$project/app/low.py"
echo 'VALUE = 1' >"$project/app/high.py"
echo 'from app.high import VALUE' >"$project/models/__init__.py"
cat >"$project/setup.py" <<'PY'
from setuptools import setup

setup(
    name="app",
    version="1",
    packages=["app", "app.models"],
    package_dir={"app": "app", "app.models": "models"},
)
PY
cat >"$project/.importlinter" <<'INI'
[importlinter]
root_package = app

[importlinter:contract:layers]
name = all modules are listed
type = layers
containers = app
layers =
    high
    low
exhaustive = true
INI

verdict() { # verdict PIP-ARGUMENT...: the last line of lint-imports, the project installed so
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
    --force-reinstall "$@"
  (cd "$folder" && "$folder/venv/bin/python" -c 'import app.models; assert app.models.VALUE == 1')
  # From another folder, so that only what is installed is found.
  (cd "$folder" && "$folder/venv/bin/lint-imports" --no-cache "$project/.importlinter" 2>&1 || true) |
    grep -o 'Contracts: .*'
}

"$folder/venv/bin/pip" --version
editable=$(verdict --editable "$project")
"$folder/venv/bin/pip" uninstall --quiet --yes app
wheel=$(verdict "$project")
echo "editable: $editable"
echo "wheel:    $wheel"
[ "$editable" = "Contracts: 1 kept, 0 broken." ] && [ "$wheel" = "Contracts: 0 kept, 1 broken." ]
