#!/usr/bin/env bash
# Makes a virtual environment with TensorFlow for GPUs, Horovod over NCCL, and SOK from its source.
# `bash launch/gpu/build.sh --help` tells the rest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# SOK 2.1.0 of PyPI does not know TensorFlow 2.16; the repository does since August 2024. This is
# the last commit that changed SOK (its release 25.03).
sok_repository=${SOK_REPOSITORY:-https://github.com/NVIDIA-Merlin/HugeCTR}
sok_commit=${SOK_COMMIT:-d4fecdb3f}

usage() {
  cat <<EOT
usage: bash launch/gpu/build.sh FOLDER

Makes a virtual environment in FOLDER: TensorFlow $(pin tensorflow) for GPUs, Horovod $(pin horovod) over
NCCL, and SOK, all built for the GPUs of SOK_COMPILE_GPU_SM. It needs CUDA 12 with nvcc, NCCL with its
headers, MPI, CMake 3.20, Ninja, g++ 9.3 or newer, git and Python 3.10 to 3.12. launch/gpu/Dockerfile
has them all. Then: FOLDER/bin/pip install --no-deps --no-build-isolation --editable .

  SOK_COMPILE_GPU_SM="80;90"   the GPUs' architectures: 70 (V100), 75 (T4), 80 (A100), 90 (H100)
  SOK_COMMIT=COMMIT            of the HugeCTR repository, now $sok_commit
  PYTHON=python3.11            the Python to use
EOT
}

pin() { sed -n "s/^$1==\([^;]*\).*/\1/p" "$root/constraints.txt" | head -n 1; }

fail() {
  printf 'gpu/build: FAILED: %s\ngpu/build: REMEDY: %s\n' "$1" "$2" >&2
  exit 1
}

need() { # need COMMAND REMEDY
  command -v "$1" >/dev/null || fail "there is no $1" "$2"
}

build_horovod() {
  local wheels
  wheels=$(mktemp -d)
  HOROVOD_GPU_OPERATIONS=NCCL \
    bash "$root/launch/build_horovod.sh" "$folder/bin/python" "$(pin horovod)" "$wheels"
  "$folder/bin/python" -m pip install --no-deps --no-index "$wheels"/horovod-*.whl
  rm -rf "$wheels"
}

build_sok() {
  local source
  source=$(mktemp -d)
  git clone "$sok_repository" "$source"
  git -C "$source" checkout "$sok_commit"
  git -C "$source" submodule update --init --recursive
  "$folder/bin/python" -m pip install scikit-build ninja
  # Its CMake asks the `python` of PATH for TensorFlow.
  (cd "$source/sparse_operation_kit" && PATH=$folder/bin:$PATH "$folder/bin/python" setup.py install)
  rm -rf "$source"
}

case ${1:-} in
  --help | -h) usage && exit ;;
  '') usage >&2 && exit 2 ;;
esac
folder=$1
python=${PYTHON:-python3}
need nvcc "install CUDA 12 (https://developer.nvidia.com/cuda-downloads), or use launch/gpu/Dockerfile"
need cmake "install CMake 3.20 or newer"
need mpicxx "install MPI with its headers (on Debian: apt-get install libopenmpi-dev)"
need git "install git"
need "$python" "name a Python 3.10 to 3.12: PYTHON=/path/to/python3.11"

"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --requirement "$root/launch/build-requirements.txt"
"$folder/bin/python" -m pip install --constraint "$root/constraints.txt" \
  "tensorflow[and-cuda]==$(pin tensorflow)"
grep -vE '^(tensorflow|tensorflow-cpu|horovod|pyspark|py4j)==' "$root/constraints.txt" |
  "$folder/bin/python" -m pip install --requirement /dev/stdin
build_horovod
build_sok
"$folder/bin/horovodrun" --check-build
"$folder/bin/python" -c 'import sparse_operation_kit as sok; print("SOK", sok.__version__)'
