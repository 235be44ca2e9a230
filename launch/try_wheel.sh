#!/usr/bin/env bash
# Builds gmeta_tf's source distribution and of it the wheel, installs that beside the stack's packages, and trains
# with it on one process.
# `bash launch/try_wheel.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

usage() {
  cat <<EOT
usage: bash launch/try_wheel.sh [--no-setup]

Shows that what a user installs is whole, which .venv cannot show, since it sees the repository:

  1. builds the source distribution, of that the wheel, and looks for what it must hold;
  2. installs it in an environment of its own, with the packages of .venv's stack and no repository;
  3. pip check: the versions of the stack fit what setup.py asks for;
  4. prepares a made log, trains, evaluates, exports and serves there, in an empty folder.

It takes about a minute, and writes nothing in the repository. GMETA_STACK and PYTHON choose the stack, as with
launch/setup.sh, which it runs first. With --no-setup it takes .venv as it is: so the gate runs it.
EOT
}

say() { printf '== %s\n' "$*"; }

case ${1:-} in
  --help | -h) usage && exit ;;
  --no-setup) ;;
  '') bash launch/setup.sh ;;
  *) usage >&2 && exit 2 ;;
esac
python=$root/.venv/bin/python
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_CPP_MIN_LOG_LEVEL=2 CUDA_VISIBLE_DEVICES=''
unset PYTHONPATH

say "the source distribution, and of it the wheel"
# From a copy: building leaves folders behind, and would take up those that are there.
mkdir "$scratch/source"
cp -R setup.py pyproject.toml README.md LICENSE gmeta_tf models "$scratch/source"
rm -rf "$scratch/source/gmeta_tf/models" # a link, where there is one
(cd "$scratch/source" && "$python" -c \
  'import sys, setuptools.build_meta as build; build.build_sdist(sys.argv[1])' "$scratch" >"$scratch/sdist.log" 2>&1) ||
  { cat "$scratch/sdist.log" >&2 && exit 1; }
"$python" -m pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir "$scratch" \
  "$scratch"/gmeta_tf-*.tar.gz
wheel=$(echo "$scratch"/gmeta_tf-*.whl)
"$python" - "$wheel" <<'EOT'
import pathlib, sys, zipfile
names = set(zipfile.ZipFile(sys.argv[1]).namelist())
folders = {"gmeta_tf": pathlib.Path("gmeta_tf"), "gmeta_tf/models": pathlib.Path("models")}
wanted = {
    f"{name}/{path.relative_to(folder).as_posix()}"
    for name, folder in folders.items()
    for path in folder.rglob("*")
    if path.suffix in (".py", ".css")
} | {"gmeta_tf/py.typed"}
others = {name for name in names if not name.startswith(("gmeta_tf/", "gmeta_tf-"))}
if wanted - names or others:
    sys.exit(f"the wheel lacks {sorted(wanted - names)}, and has besides: {sorted(others)}")
print(f"{len(wanted)} files")
EOT

say "an environment of its own"
"$python" -m venv --without-pip "$scratch/venv"
own=$scratch/venv/bin/python
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
# The stack's packages, which .venv points to in the same way; the repository is not among them.
cp "$("$python" -c "$purelib")/gmeta_dependencies.pth" "$("$own" -c "$purelib")/"
"$own" -m pip install --quiet --no-deps --no-index "$wheel"
cd "$scratch"
where=$("$own" -c 'import importlib.util; print(importlib.util.find_spec("gmeta_tf").origin)')
case $where in
  "$scratch"/*) ;;
  *) echo "expected gmeta_tf from the wheel, got $where" >&2 && exit 1 ;;
esac
"$own" -m pip check

say "train, evaluate, export, serve"
"$own" - <<'EOT'
import random
random.seed(0)
with open("log.csv", "w") as log:
    print("user,item,time,label", file=log)
    for row in range(6000):
        user, item = random.randrange(120), random.randrange(40)
        label = int(random.random() < (0.8 if (user + item) % 3 else 0.2))
        print(user, item, row, label, sep=",", file=log)
EOT
cat >schema.yaml <<'EOT'
fields: [{name: item}]
label: label
task: user
time: time
EOT
command=$scratch/venv/bin/gmeta-tf
"$command" prepare --input log.csv --schema schema.yaml --output records
"$command" train --records records --run run --epochs 2
"$command" evaluate --run run
"$command" export --run run
"$own" - <<'EOT'
import tensorflow as tf
serve = tf.saved_model.load("run/saved_model").signatures["serving_default"]
served = serve(
    query_item=tf.constant([["1", "2", "no such item"]]),
    support_item=tf.constant([["3", "4"]]),
    support_label=tf.constant([[1.0, 0.0]]),
    support_count=tf.constant([2]),
)["prediction"].numpy()
assert served.shape == (1, 3) and ((served > 0) & (served < 1)).all(), served
EOT
"$own" -c 'import tensorflow as tf, keras, numpy, sys
print("== passed: Python", sys.version.split()[0], "TensorFlow", tf.__version__, "Keras", keras.__version__, "NumPy", numpy.__version__)'
