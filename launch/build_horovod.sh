#!/usr/bin/env bash
# Builds Horovod's wheel for the TensorFlow of an environment: the one recipe, for CPUs and GPUs.
# `bash launch/build_horovod.sh --help` tells the rest.
#
# One source file, xla_mpi_ops.cc, is left out where it does not compile. By way of TensorFlow's
# xla/printer.h it includes "highwayhash/arch_specific.h" (TensorFlow 2.21; 2.16 did not), which is
# not below the folder that TensorFlow gives to compilers. All that the file brings is AllReduce
# within XLA clusters on GPUs, and that only where HOROVOD_ENABLE_XLA_OPS is set: a build without
# it holds a module without_xla_ops, by which gmeta_tf rejects that variable instead of ignoring it.
set -euo pipefail

usage() {
  cat <<EOT
usage: bash launch/build_horovod.sh PYTHON VERSION FOLDER

Downloads Horovod's source and builds FOLDER/horovod-VERSION-*.whl with PYTHON, which must have TensorFlow,
CMake and the packages of launch/build-requirements.txt. Horovod's own variables go through
(HOROVOD_GPU_OPERATIONS=NCCL), and so do CXX and MAKEFLAGS.
EOT
}

case ${1:-} in
  --help | -h) usage && exit ;;
esac
if [ $# != 3 ]; then usage >&2 && exit 2; fi
python=$1 version=$2 folder=$3
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT

"$python" -m pip download --no-deps --no-binary :all: --no-build-isolation --dest "$source" \
  "horovod==$version" || exit 3
tar -xzf "$source/horovod-$version.tar.gz" -C "$source"
tree=$source/horovod-$version

lacks_a_header() { # Does TensorFlow's xla/printer.h include what compilers do not find?
  local include header
  include=$("$python" -c 'import importlib.util as util, pathlib
print(pathlib.Path(util.find_spec("tensorflow").origin).parent / "include")')
  while read -r header; do
    if [ ! -e "$include/$header" ]; then return 0; fi
  done < <(sed -n 's/^#include "\(highwayhash\/.*\)"$/\1/p' "$include/xla/printer.h" || true)
  return 1
}

if lacks_a_header; then
  list=$tree/horovod/tensorflow/CMakeLists.txt
  [ "$(grep -c 'xla_mpi_ops\.cc' "$list")" = 1 ] || {
    echo "build_horovod: expected one line with xla_mpi_ops.cc in $list" >&2
    exit 1
  }
  sed '/xla_mpi_ops\.cc/d' "$list" >"$list.new"
  mv "$list.new" "$list"
  echo '"""xla_mpi_ops.cc was left out: compilers do not find headers that it needs in TensorFlow."""' \
    >"$tree/horovod/tensorflow/without_xla_ops.py"
  echo "build_horovod: xla_mpi_ops.cc is left out"
fi

# --no-cache-dir: a wheel that pip kept from another build may lack TensorFlow.
HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 \
  HOROVOD_WITHOUT_MXNET=1 \
  "$python" -m pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir "$folder" "$tree"
