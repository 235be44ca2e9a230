#!/usr/bin/env bash
# The gate: style, types, layers, tests on one process, on 2 and on 3. It stops at the first failure.
# `bash launch/test.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=${GMETA_TEST_TIMEOUT:-3600}
scratch=
running=

# What --quick runs: of each room a file that says most of it in the fewest seconds, and the ways of
# keys, gradients and whole steps between ranks.
quick_files=(
  tests/schema/test_schema.py
  tests/test_allowed.py
  tests/cli/test_main.py
  tests/distributed/test_world.py
  tests/distributed/test_collectives.py
  tests/docs/test_architecture.py
  tests/embedding/test_sharded.py
  tests/embedding/test_row_optimizers.py
  tests/embedding/test_replicated.py
  tests/evaluation/test_metrics.py
  tests/launch/test_test_script.py
  tests/launching/test_hosts.py
  tests/meta/test_inner_loop.py
  tests/meta/test_lanes.py
  tests/meta/test_validation.py
  tests/meta_io/batches/test_plan.py
  tests/meta_io/batches/test_task_samples.py
  tests/meta_io/preparing/test_prepare.py
  tests/meta_io/records/test_records.py
  tests/meta_io/sources/test_sources.py
  tests/models/test_models.py
  tests/planner/test_placement.py
  tests/play/test_catalogue.py
  tests/report/test_page.py
  tests/saving/checkpoints/test_checkpoint.py
)
quick_files_of_ranks="packed_alltoall or exchange or step_parity"
quick_files_of_3_ranks="packed_alltoall or exchange" # a number of ranks by which nothing divides

usage() {
  cat <<EOF
usage: bash launch/test.sh [--quick | PYTEST-OPTION...]

Without options, the gate, which stops at the first failure:
  launch/setup.sh; ruff check and ruff format --check; mypy; lint-imports;
  pytest tests, but for tests/parallel; tests/parallel under horovodrun -np 2 and -np 3

With --quick, which is not the gate: the same up to lint-imports, and then a representative part of
the tests, without those marked slow, on one process, on 2 ranks and on 3, in some 3 minutes.

With other options, for work on one thing: only the three pytest parts, with these options, such as
  bash launch/test.sh -k exchange
  bash launch/test.sh -x -m 'not slow'
A part in which nothing matches is then passed over, but some part must match.

  GMETA_TEST_TIMEOUT=$limit     seconds for each pytest part; then it is stopped as hanging
  GMETA_WITHOUT_HOROVOD=1    set up without Horovod, and leave tests/parallel out
EOF
}

say() { printf '== %s\n' "$*"; }

fail() {
  printf '== FAILED: %s\n' "$*" >&2
  exit 1
}

cleanup() {
  if [ -n "$running" ]; then
    kill -TERM "$running" 2>/dev/null || true # timeout hands it on to its whole process group
    wait "$running" || true
  fi
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

check() { # check COMMAND...
  say "$*"
  ".venv/bin/$1" "${@:2}" || fail "$*"
}

limited() { # limited COMMAND...: stopped, with its whole process group, at the time limit
  # In the background: bash acts on Ctrl-C only while it waits, not while a command runs.
  timeout --kill-after=30 "$limit" "$@" &
  running=$!
  local status=0
  wait "$running" || status=$?
  running=
  return "$status"
}

unprefixed() { sed 's/^\[[0-9]*\]<std[a-z]*>://'; } # what horovodrun puts before each line

num_passed() { # num_passed REPORT
  .venv/bin/python -c 'import sys, xml.etree.ElementTree as tree
suite = tree.parse(sys.argv[1]).getroot()[0]
print(int(suite.get("tests")) - sum(int(suite.get(n)) for n in ("skipped", "failures", "errors")))
' "$1" || echo 0
}

judge() { # judge PART STATUS REPORT: pytest ended with STATUS, and wrote REPORT
  case $2 in
    0) ;;
    5) # nothing collected
      if [ -n "$options" ]; then return; fi
      fail "$1: there are no tests"
      ;;
    124 | 137) fail "$1: no end after $limit s (GMETA_TEST_TIMEOUT), so it was stopped: a hang?" ;;
    *) fail "$1 (status $2)" ;;
  esac
  if [ "$(num_passed "$3")" = 0 ]; then fail "$1: not one test passed"; fi
  some_passed=yes
}

serial() { # serial PATH-OR-PYTEST-OPTION...
  local part="pytest tests" status=0 report=$scratch/serial.xml
  say "$part"
  # Files are dealt whole to two processes: some start a server or a session for all their tests.
  # They are dealt in the order of tests/conftest.py, and not those of most tests first.
  limited .venv/bin/python -m pytest --ignore tests/parallel -q -rs -n 2 --dist loadfile \
    --no-loadscope-reorder \
    --junit-xml "$report" "${dumps[@]}" "$@" || status=$?
  judge "$part" "$status" "$report"
}

parallel() { # parallel RANKS PYTEST-OPTION...
  local ranks=$1 status=0 log
  local part="pytest tests/parallel on $1 ranks" logs=$scratch/ranks-$1 launcher=$scratch/launcher
  shift
  say "$part"
  # The ranks share this host's cores, which waking 10,000 times a second (the library's 0.1 ms)
  # would keep busy by a third; tests make few steps. No cache provider: all would write one file.
  OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 HOROVOD_CYCLE_TIME=2 \
    HOROVOD_STALL_CHECK_TIME_SECONDS=30 \
    limited .venv/bin/horovodrun -np "$ranks" --output-filename "$logs" \
    .venv/bin/python -m pytest tests/parallel -q -x --color=no -p no:cacheprovider \
    --junit-xml "$logs/\$HOROVOD_RANK.xml" "${dumps[@]}" "$@" \
    </dev/null >"$launcher" 2>&1 || status=$? # pytest puts each process' rank into that name
  if grep -q '^Exit code: 5$' "$launcher"; then status=5; fi
  if [ "$status" = 0 ] || [ "$status" = 5 ]; then
    tail -n 1 "$logs/rank.0/stdout" | unprefixed
  else
    for log in "$logs"/rank.*/std*; do
      printf -- '--- %s\n' "${log#"$logs/"}"
      unprefixed <"$log"
    done
    printf -- '--- horovodrun\n'
    # Its own lines only: the ranks' are above, and its traceback says nothing of them.
    grep -vE '^(\[[0-9]*\]<std|Traceback|  )' "$launcher" || true
  fi
  judge "$part" "$status" "$logs/0.xml"
}

quick=
case ${1:-} in
  --help | -h) usage && exit ;;
  --quick)
    quick=yes
    shift
    if [ $# != 0 ]; then usage >&2 && fail "--quick takes no further options, got: $*"; fi
    ;;
esac
options="$*"
some_passed=
bash launch/setup.sh || fail "launch/setup.sh"
trap cleanup EXIT
trap 'exit 130' INT TERM
scratch=$(mktemp -d)
export HOROVOD_CYCLE_TIME=0.1 TF_CPP_MIN_LOG_LEVEL=2
# A test that hangs prints where, before the time is up.
dumps=(-o "faulthandler_timeout=$((limit / 2))")

if [ -z "$options" ]; then
  check ruff check --output-format concise .
  check ruff format --check .
  check mypy
  check lint-imports --no-cache
fi
if [ -n "$quick" ]; then
  serial -m "not slow" "${quick_files[@]}"
else
  serial tests "$@"
fi
if [ -n "${GMETA_WITHOUT_HOROVOD:-}" ]; then
  say "tests/parallel was left out (GMETA_WITHOUT_HOROVOD)"
elif [ -n "$quick" ]; then
  parallel 2 -m "not slow" -k "$quick_files_of_ranks"
  parallel 3 -m "not slow" -k "$quick_files_of_3_ranks"
else
  parallel 2 "$@"
  parallel 3 "$@"
fi
[ -n "$some_passed" ] || fail "no test matches: $options"
if [ -n "$quick" ]; then
  say "passed in $SECONDS s; but --quick is not the gate, which is bash launch/test.sh without options"
else
  say "${options:+the tests that match }passed in $SECONDS s"
fi
