#!/usr/bin/env bash
# TensorFlow 2.21.0 with NumPy 2.4.6: `np.array(tf.Variable(...))` raises a DeprecationWarning ("__array__ implementation
# doesn't accept a copy keyword"), and so does a keras.Variable of Keras 3.15.1. The wheels ask for NumPy 2, tf.Tensor
# was brought up to its protocol, and `np.asarray(variable)` is quiet, so that neither reading TensorFlow's notes nor
# trying a tensor shows it. Where warnings are errors (pytest's filterwarnings = error) reading a weight so fails;
# `variable.numpy()` does not.
#
# Seen: tensor array 0, tensor asarray 0, variable array 1, variable asarray 0, keras array 1, keras asarray 0
# (warnings; Python 3.13.0, x86-64). Exits with 1 if that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=${PYTHON:-python3.13}
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6
found=$(cd "$folder" && TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>/dev/null <<'PY'
import warnings

import keras
import numpy as np
import tensorflow as tf

values = {"tensor": tf.constant([1.0]), "variable": tf.Variable([1.0]), "keras": keras.Variable([1.0])}
for name, value in values.items():
    for read in (np.array, np.asarray):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read(value).tolist() == [1.0]
        print(name, read.__name__, len(caught))
PY
)
echo "$found"
[ "$(echo "$found" | tr '\n' ',')" = \
  "tensor array 0,tensor asarray 0,variable array 1,variable asarray 0,keras array 1,keras asarray 0," ]
