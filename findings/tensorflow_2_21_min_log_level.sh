#!/usr/bin/env bash
# TensorFlow 2.21.0 writes its oneDNN notice to stderr twice, the second time at the first op, and no
# TF_CPP_MIN_LOG_LEVEL keeps it from that: 3, which is to leave nothing but fatal errors, still leaves "I0000 ...
# port.cc:153] oneDNN custom operations are on", of level INFO. TensorFlow 2.16 is silent from 1 on. Whoever compares a program's stderr,
# or has the level set so that only failures are told, gets it on every start; only TF_ENABLE_ONEDNN_OPTS=0 stops it,
# and with it what the notice is of.
#
# Seen: lines with "oneDNN custom operations" at TF_CPP_MIN_LOG_LEVEL=3: 2; with TF_ENABLE_ONEDNN_OPTS=0: 0
# (Python 3.13.0, x86-64, a CPU where oneDNN is on). Exits with 1 if that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3.13}
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow-cpu==2.21.0

notices() { # notices NAME=VALUE...: how many lines of stderr are the notice
  (cd "$folder" && env TF_CPP_MIN_LOG_LEVEL=3 "$@" "$folder/venv/bin/python" -c \
    'import tensorflow as tf; tf.constant(1)' 2>&1 >/dev/null) |
    grep -c 'oneDNN custom operations are on' || true
}

at_level_3=$(notices TF_CPP_MIN_LOG_LEVEL=3)
switched_off=$(notices TF_ENABLE_ONEDNN_OPTS=0)
echo "at level 3: $at_level_3, with oneDNN switched off: $switched_off"
[ "$at_level_3" = 2 ] && [ "$switched_off" = 0 ]
