#!/usr/bin/env bash
# Settles, on a machine with GPUs, what docs/gpu.md says has not been run: each item prints PASS or
# FAIL and what it compared. `bash launch/gpu_check.sh --help` tells the rest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

limit=${GMETA_CHECK_TIMEOUT:-600}
scratch=
failed=0

names=(devices nccl kernels static dynamic small_reads empty_reads eviction memory speed)
# ITEM:RANKS; "all" is as many ranks as there are GPUs, up to 8. docs/gpu.md says what each is about.
items=(
  devices:1 devices:all nccl:all kernels:1 static:1 static:all dynamic:1 dynamic:all small_reads:1
  empty_reads:1 empty_reads:all eviction:1 memory:1 speed:1 speed:all
)

usage() {
  cat <<EOT
usage: bash launch/gpu_check.sh [ITEM...]

Runs the items of docs/gpu.md on this machine's GPUs, each in processes of its own, on one rank and
(with two GPUs or more) on several, and prints PASS or FAIL and what was compared. It ends with
status 1 where an item failed. Items:
  ${names[*]}

  PYTHON=python               a Python with TensorFlow for GPUs, Horovod over NCCL and SOK
                              (launch/gpu/ makes one); horovodrun must lie beside it
  GMETA_CHECK_TIMEOUT=$limit   seconds for each item
EOT
}

fail() { # fail WHAT REMEDY
  printf 'gpu_check: FAILED: %s\ngpu_check: REMEDY: %s\n' "$1" "$2" >&2
  exit 1
}

cleanup() { if [ -n "$scratch" ]; then rm -rf "$scratch"; fi; }

count_gpus() {
  if ! command -v nvidia-smi >/dev/null; then echo 0 && return; fi
  nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
}

find_python() { # Sets python, horovodrun
  python=${PYTHON:-}
  if [ -z "$python" ]; then
    if command -v python >/dev/null; then python=python; else python=python3; fi
  fi
  "$python" -c 'import tensorflow as tf, sys; sys.exit(not tf.config.list_physical_devices("GPU"))' \
    2>/dev/null || fail "TensorFlow of $python sees no GPU, or is not installed" \
    "make an environment with launch/gpu/build.sh, and name its Python: PYTHON=FOLDER/bin/python"
  "$python" -c 'import sparse_operation_kit' >/dev/null 2>&1 ||
    fail "$python cannot import sparse_operation_kit (merlin-sok)" \
      "make an environment with launch/gpu/build.sh, and name its Python: PYTHON=FOLDER/bin/python"
  horovodrun=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")/horovodrun
}

run_item() { # run_item ITEM RANKS
  local item=$1 ranks=$2 status=0 log=$scratch/log
  local command=("$python" tests/gpu/checks.py "$item")
  if [ "$ranks" -gt 1 ]; then command=("$horovodrun" -np "$ranks" "${command[@]}"); fi
  TF_CPP_MIN_LOG_LEVEL=2 timeout --kill-after=10 "$limit" "${command[@]}" \
    </dev/null >"$log" 2>&1 || status=$?
  if [ "$status" = 0 ]; then
    printf 'PASS %s on %s rank(s): %s\n' "$item" "$ranks" \
      "$(grep -o 'rank 0: compared .*' "$log" | head -n 1 | cut -d' ' -f3-)"
  else
    failed=$((failed + 1))
    if [ "$status" = 124 ]; then echo "no end after $limit s" >>"$log"; fi
    printf 'FAIL %s on %s rank(s), status %s:\n' "$item" "$ranks" "$status"
    grep -o 'rank [0-9]*: differs: .*' "$log" | head -n 4 | sed 's/^/  | /' || true
    tail -n 15 "$log" | cut -c1-300 | sed 's/^/  | /'
  fi
}

wanted() { # wanted ITEM: is it asked for?
  local name
  if [ ${#asked[@]} = 0 ]; then return 0; fi
  for name in "${asked[@]}"; do
    if [ "$name" = "$1" ]; then return 0; fi
  done
  return 1
}

main() {
  local entry item ranks gpus all
  asked=("$@")
  case ${1:-} in
    --help | -h) usage && return ;;
    -*) usage >&2 && exit 2 ;;
  esac
  for item in "$@"; do
    if [[ " ${names[*]} " != *" $item "* ]]; then
      echo "gpu_check: no item is called $item" >&2 && usage >&2 && exit 2
    fi
  done
  gpus=$(count_gpus)
  if [ "$gpus" = 0 ]; then
    fail "no GPU (nvidia-smi lists none), and every item is about one" \
      "run this on a machine with NVIDIA GPUs; the contract tests run anywhere: pytest tests/embedding/sok/test_backend.py"
  fi
  find_python
  all=$((gpus < 8 ? gpus : 8))
  trap cleanup EXIT
  scratch=$(mktemp -d)
  nvidia-smi -L
  for entry in "${items[@]}"; do
    item=${entry%:*}
    ranks=${entry#*:}
    wanted "$item" || continue
    if [ "$ranks" = all ]; then
      ranks=$all
      if [ "$all" = 1 ]; then
        printf 'LEFT OUT %s on several ranks: there is one GPU\n' "$item"
        continue
      fi
    fi
    run_item "$item" "$ranks"
  done
  [ "$failed" = 0 ] || fail "$failed item(s), see above" \
    "docs/gpu.md says what each is about, and what to do without it"
}

main "$@"
