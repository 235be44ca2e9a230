#!/usr/bin/env bash
# Tries the newest release of each direct dependency, one by one, beside the pinned versions of the others.
# `bash launch/try_newest.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Each package, and the tests that use it most.
tried() {
  cat <<'EOT'
duckdb tests/meta_io/preparing tests/meta_io/sources
keras tests/meta/test_inner_loop.py tests/models/test_models.py tests/saving/checkpoints/test_checkpoint.py
safetensors tests/saving/checkpoints/test_checkpoint.py
jsonargparse tests/cli/test_main.py tests/cli/test_run_files.py
PyYAML tests/cli/test_main.py tests/schema/test_schema.py
tensorboard tests/cli/test_run_files.py
matplotlib tests/report/test_page.py
pyspark tests/meta_io/preparing/test_spark.py
s3fs tests/meta_io/test_files.py
moto tests/meta_io/test_files.py
EOT
}

usage() {
  cat <<EOT
usage: bash launch/try_newest.sh [PACKAGE...] [engines]

For each package (all of them: $(tried | cut -d' ' -f1 | tr '\n' ' ')) the newest
release in the registry is put before .venv's in a temporary folder, with newer releases of what it needs, and the
tests that use it most are run.

With \`engines\`, and without any word, launch/same_records.py also prepares one made log with bad cells of each kind, with
DuckDB and Spark of the stack and with the newest ones (Spark with either DuckDB in its tasks): the records have to be
the same, byte for byte. Spark needs Java 17 or newer.

The last lines are a table for docs/performance.md: package, the stack's version, the newest one, and what came of it.
Exit status 1 where some tests failed, or records differ.

It is not part of the gate, and changes nothing in .venv or the repository.
EOT
}

case ${1:-} in
  --help | -h) usage && exit ;;
esac
for name in "$@"; do
  { tried && echo 'engines '; } | grep "^$name " >/dev/null ||
    { echo "try_newest: expected a package of --help or engines, got $name" >&2 && exit 2; }
done
bash launch/setup.sh
python=$PWD/.venv/bin/python
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 TF_CPP_MIN_LOG_LEVEL=2
# NumPy and TensorFlow stay the stack's: Horovod is built for the one, and the one for the other.
"$python" -m pip freeze 2>/dev/null | grep -iE '^(numpy|tensorflow|tensorflow-cpu|protobuf|ml[-_]dtypes)==' \
  >"$scratch/kept.txt"

version() { # version PACKAGE [FOLDER]: the one that Python finds, in FOLDER first
  PYTHONPATH=${2:-} "$python" -c \
    'import sys, importlib.metadata as m; print(m.version(sys.argv[1]))' "$1" 2>/dev/null || echo none
}

newest_of() { # newest_of PACKAGE FOLDER: installs its newest release there; a line of pip's where that fails
  "$python" -m pip install --quiet --upgrade --target "$2" --constraint "$scratch/kept.txt" "$1" \
    >"$scratch/log" 2>&1 || return 1
  rm -rf "$2"/numpy "$2"/numpy-* "$2"/numpy.libs
}

prepared() { # prepared ENGINE REPORT [FOLDER...]: by the packages in the folders first, then .venv's
  local engine=$1 report=$2
  shift 2
  PYTHONPATH=$(printf '%s:' "$@")$PWD timeout 900 "$python" launch/same_records.py prepare "$scratch/made" \
    "$engine" "$scratch/$report.json"
}

same_records() { # prints what differs; exit status not 0 where something does
  local duckdb=$scratch/newest-duckdb pyspark=$scratch/newest-pyspark
  newest_of duckdb "$duckdb" && newest_of pyspark "$pyspark" || return 1
  PYTHONPATH=$PWD "$python" launch/same_records.py write "$scratch/made" || return 1
  prepared duckdb duckdb-here || return 1
  prepared duckdb duckdb-newest "$duckdb" || return 1
  prepared spark spark-here || return 1
  prepared spark spark-newest "$pyspark" || return 1
  prepared spark both-newest "$pyspark" "$duckdb" || return 1
  PYTHONPATH=$PWD "$python" launch/same_records.py compare \
    "$scratch"/{duckdb-here,duckdb-newest,spark-here,spark-newest,both-newest}.json
}

status=0
{
  echo '| package | here | newest | tests |'
  echo '|---|---|---|---|'
} >"$scratch/table"
while read -r name tests; do
  if [ $# != 0 ] && ! grep -qw -- "$name" <<<"$*"; then continue; fi
  here=$(version "$name")
  folder=$scratch/$name
  echo "== $name"
  if ! newest_of "$name" "$folder"; then
    result="not installable: $(grep -m 1 ERROR "$scratch/log" | cut -c1-120 || true)"
    newest='?'
  else
    newest=$(version "$name" "$folder")
    # shellcheck disable=SC2086 # several paths
    if PYTHONPATH=$folder:$PWD timeout 1800 "$python" -m pytest -q -p no:cacheprovider -m 'not slow' $tests \
      >"$scratch/log" 2>&1; then
      result=$(tail -n 1 "$scratch/log")
    else
      result="FAILED: $(grep -aE '^(E  |FAILED|ERROR)' "$scratch/log" | head -n 1 | cut -c1-120 || true)"
      status=1
    fi
  fi
  rm -rf "$folder"
  echo "| $name | $here | $newest | ${result//|/ } |" | tee -a "$scratch/table"
done < <(tried)
if [ $# = 0 ] || grep -qw engines <<<"$*"; then
  echo "== engines"
  if same_records; then result='the same records'; else result='FAILED: see above' && status=1; fi
  echo "| records of all engines | | | $result |" >>"$scratch/table"
fi
echo
cat "$scratch/table"
exit "$status"
