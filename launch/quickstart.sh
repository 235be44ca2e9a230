#!/usr/bin/env bash
# MovieLens from nothing to a served model: set-up, prepare, train on 2 ranks, evaluate, export, predict,
# and a page that shows it.
#   bash launch/quickstart.sh                    # MovieLens-100k, downloaded
#   bash launch/quickstart.sh --data ~/ml-1m     # GroupLens' ml-100k or ml-1m folder of your own
set -euo pipefail
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/quickstart.sh [--data DIR] [--ranks N] [--output DIR]

Prepares MovieLens, meta-trains Factors on N ranks under horovodrun, evaluates it on cold users, exports a
SavedModel, lets a plain TensorFlow process predict with it, and makes a page that shows it. The last line is the result as JSON.

  --data DIR     a folder with GroupLens' ml-100k or ml-1m; without it ml-100k is downloaded.
                 GroupLens' licence (research use, no redistribution) holds for the data.
  --ranks N      how many ranks train (2)
  --output DIR   where records, run and SavedModel go (quickstart-output in the repository); what an
                 earlier quick start left there is replaced
TEXT
}

absolute() { case "$1" in /*) printf '%s' "$1" ;; *) printf '%s' "$from/$1" ;; esac; }

data=download ranks=2 output=quickstart-output
while [ $# -gt 0 ]; do
  case "$1" in
    --data | --ranks | --output)
      [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; usage >&2; exit 2; }
      case "$1" in
        --data) data=$(absolute "$2") ;;
        --ranks) ranks=$2 ;;
        --output) output=$(absolute "$2") ;;
      esac
      shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown argument $1" >&2; usage >&2; exit 2 ;;
  esac
done
case "$ranks" in
  '' | *[!0-9]* | 0) echo "quickstart: expected --ranks of at least 1, got $ranks" >&2; exit 2 ;;
esac

step() { printf '\n== %s\n' "$*"; }

bash launch/setup.sh
export PATH="$PWD/.venv/bin:$PATH" TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
# horovodrun puts the rank before every line; only rank 0 has something to say here. When a rank is lost
# it adds a traceback of its own, of which the last lines say which rank that was.
on_ranks() {
  horovodrun -np "$ranks" "$@" 2> >(sed -u -e '/^Traceback /d' -e '/^  /d' >&2) |
    sed -u 's/^\[0\]<stdout>://'
}

step "prepare"
gmeta-tf prepare --movielens "$data" --output "$output/records" --overwrite
step "train on $ranks ranks"
# 32 tasks a step in all, however many ranks share them.
on_ranks gmeta-tf train --config launch/quickstart.yaml --tasks "$(((31 + ranks) / ranks))" \
  --records "$output/records" --run "$output/run" --overwrite
step "evaluate on cold users"
on_ranks gmeta-tf evaluate --run "$output/run"
step "export"
gmeta-tf export --run "$output/run"
step "predict in a process that has TensorFlow alone"
python launch/serving_example.py "$output/run/saved_model"
step "a page of it"
gmeta-tf report --run "$output/run" --by genre
step "result"
python -m gmeta_tf.cli.quickstart_report --run "$output/run" --saved-model "$output/run/saved_model" \
  --movielens "$data"
