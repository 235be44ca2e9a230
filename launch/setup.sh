#!/usr/bin/env bash
# Makes .venv in the repository root: TensorFlow, Horovod built against it, the development tools
# and gmeta_tf itself (editable). `bash launch/setup.sh --help` tells the rest.
#
# Everything but gmeta_tf lies in a cache outside the repository, keyed by what it is made from:
#   <cache>/wheels/<key>/   the Horovod wheel (the slow part)
#   <cache>/env/<key>/      a virtual environment; finished when it holds .complete
#   <cache>/sources/<key>/  SOK's source distribution, which tests read
# .venv only points there, so a second clone is ready in seconds.
#
# There are two stacks. The pinned one is TensorFlow 2.16, the last that tensorflow-io gives remote
# file systems to; the current one is the newest TensorFlow that Horovod was built with, where
# fsspec reads remote files.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
stamp=$venv/.gmeta-setup # empty while .venv is being made, then what it was made from
cache=${GMETA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gmeta_tf}
log=$cache/logs/setup-$$.log
build_pins=$root/launch/build-requirements.txt
sok_pin=$root/launch/sok-requirements.txt
scratch=
unfinished=

usage() {
  cat <<EOF
usage: bash launch/setup.sh [--help | --where | --stack-info | --with-uv]

Makes .venv with TensorFlow, Horovod (Gloo), the development tools and gmeta_tf (editable). There are
two stacks:

  pinned    TensorFlow $(pin tensorflow constraints.txt), NumPy 1, on Python 3.10, 3.11 or 3.12; remote files by tensorflow-io
  current   TensorFlow $(pin tensorflow constraints-current.txt), NumPy 2, on Python 3.11, 3.12 or 3.13; remote files by fsspec (s3fs)

Where \`python3\` is 3.13, or only 3.13 is found, it is the current stack, else the pinned one.
The first time takes about 5 minutes, a second clone on the same machine seconds, and when nothing
has changed it returns at once. It needs a C++17 compiler with make, and a package registry; it
installs nothing outside .venv and the cache. Where there is Java it installs PySpark, too.

  --where        print the folders it would use, and stop
  --stack-info   print which stack it would make, of what, and why, and stop
  --with-uv      where no suitable Python is found, have uv install one (uv python install)

  GMETA_STACK=NAME          pinned or current, whatever the Python. Export it, as the next two:
                            the other launch scripts call this one
  PYTHON=python3.11         the Python to use, instead of the first one found
  GMETA_WITHOUT_HOROVOD=1   leave Horovod out (one process only; no compiler needed)
  GMETA_TENSORFLOW=NAME     tensorflow-cpu, tensorflow or tensorflow[and-cuda]. Unset: with a GPU
                            tensorflow[and-cuda], else tensorflow-cpu where there is one
  GMETA_CACHE=FOLDER        the cache, now $cache
  PIP_INDEX_URL=URL         a mirror of the package registry (any setting of pip's works)
EOF
}

say() { printf 'setup: %s\n' "$*"; }

fail() { # fail WHAT REMEDY
  printf 'setup: FAILED: %s\nsetup: REMEDY: %s\n' "$1" "$2" >&2
  exit 1
}

cleanup() {
  if [ -n "$unfinished" ]; then rm -rf "$unfinished"; fi
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi; }

log_end() { tail -n 5 "$log" | cut -c1-300 | sed 's/^/  | /'; }

# ---------------------------------------------------------------- what there is

python_version() { # python_version COMMAND: prints "3.11 /the/real/python3.11 ABI"
  "$1" -c 'import os, sys, sysconfig
real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
print("%d.%d" % sys.version_info[:2], real, sysconfig.get_config_var("SOABI"))' 2>/dev/null
}

check_stack() { # Rejects a GMETA_STACK that is no stack's name
  case ${GMETA_STACK:-} in
    '' | pinned | current) ;;
    *) fail "expected GMETA_STACK to be pinned or current, got $GMETA_STACK" \
      "unset it, or: GMETA_STACK=current bash launch/setup.sh" ;;
  esac
}

choose_stack() { # choose_stack PYTHON-VERSION: sets stack, why; fails where that Python has none
  case ${GMETA_STACK:-}/$1 in
    pinned/3.10 | pinned/3.11 | pinned/3.12 | current/3.11 | current/3.12 | current/3.13)
      stack=$GMETA_STACK why="GMETA_STACK=$GMETA_STACK"
      ;;
    /3.10 | /3.11 | /3.12) stack=pinned why="the Python is $1; the pinned stack is the default where it runs" ;;
    /3.13) stack=current why="the Python is 3.13, and the pinned stack ends with 3.12" ;;
    *) return 1 ;;
  esac
}

default_pythons() { # The commands that may be a Python of the stack, the best first
  case ${GMETA_STACK:-} in
    pinned) echo python3.11 python3.12 python3.10 python3 python ;;
    current) echo python3.13 python3.12 python3.11 python3 python ;;
    *) # Whoever has 3.13 as python3 has chosen it, whatever else is there.
      case $(python_version python3) in
        3.13\ *) echo python3 ;;
        *) echo python3.11 python3.12 python3.10 python3 python3.13 python ;;
      esac
      ;;
  esac
}

pythons_of_stack() { # The versions, and the one to install
  case ${GMETA_STACK:-} in
    pinned) suitable="the pinned stack runs on Python 3.10, 3.11 and 3.12" to_install=3.11 ;;
    current) suitable="the current stack runs on Python 3.11, 3.12 and 3.13" to_install=3.13 ;;
    *) suitable="the stacks run on Python 3.10 to 3.13" to_install=3.11 ;;
  esac
}

find_python() { # Sets python, python_abi, stack, why; with uv's Python if that is asked for
  local candidate answer found="" installed suitable to_install
  local candidates=()
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); else read -ra candidates <<<"$(default_pythons)"; fi
  for candidate in "${candidates[@]}"; do
    if use_python "$candidate"; then return; fi
    answer=$(python_version "$candidate") || continue
    found="$found $candidate is ${answer% *};"
  done
  pythons_of_stack
  if [ -n "$with_uv" ] && [ -z "${PYTHON:-}" ]; then
    installed=$(python_of_uv "$to_install")
    use_python "$installed" ||
      fail "uv's Python $to_install does not run: $installed" "uv python install --reinstall $to_install"
    return
  fi
  fail "no suitable Python: $suitable. Found:${found:- none}" \
    "have uv install one: bash launch/setup.sh --with-uv
       or do it (on Debian: apt-get install python3 python3-venv; or: uv python install $to_install), or name it:
       PYTHON=/path/to/python$to_install bash launch/setup.sh"
}

use_python() { # use_python COMMAND: sets python, python_abi, stack, why if it is of a stack
  local answer
  answer=$(python_version "$1") || return 1
  choose_stack "${answer%% *}" || return 1
  python_abi=${answer##* }
  python=${answer#* }
  python=${python% *}
  constraints=$root/constraints.txt
  if [ "$stack" = current ]; then constraints=$root/constraints-current.txt; fi
}

python_of_uv() { # python_of_uv VERSION: has uv install it (where it has it, nothing is done)
  command -v uv >/dev/null || fail "there is no uv, which --with-uv asks for" \
    "install it (https://docs.astral.sh/uv, or: pip install uv), and run again"
  say "uv python install $1" >&2
  uv python install "$1" >&2 || fail "uv could not install Python $1" \
    "read its message above; or install a Python in another way, and name it:
       PYTHON=/path/to/python$1 bash launch/setup.sh"
  uv python find "$1"
}

choose_tensorflow() { # Sets tensorflow
  tensorflow=${GMETA_TENSORFLOW:-}
  if [ -n "$tensorflow" ]; then return; fi
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
    tensorflow='tensorflow[and-cuda]'
  elif [ "$(uname -sm)" = "Linux x86_64" ]; then
    tensorflow='tensorflow-cpu'
  else
    tensorflow=tensorflow
  fi
}

choose_spark() { # Sets without_spark: PySpark takes 400 MB, and is of no use without Java
  without_spark=
  if ! command -v java >/dev/null; then without_spark='without spark'; fi
}

pin() { # pin PACKAGE [FILE]: its version in FILE, else in the stack's
  sed -n "s/^$1==//p" "${2:+$root/}${2:-$constraints}"
}

locate() { # Sets env_dir, wheel_dir, sok_dir: the keyed folders of the cache
  local machine
  machine="$(uname -sm) $(getconf GNU_LIBC_VERSION 2>/dev/null || true)"
  env_dir=$cache/env/$({
    printf '%s\n' "layout 1" "$machine" "$python" "$python_abi" "$tensorflow" "$without_horovod" \
      "$without_spark"
    grep -hv '^#' "$constraints" "$build_pins"
  } | sha256 | cut -c1-16)
  sok_dir=$cache/sources/$(grep -v '^#' "$sok_pin" | sha256 | cut -c1-16)
  wheel_dir=$cache/wheels/horovod-$(pin horovod)-$(printf '%s\n' "$machine" "$python_abi" \
    "$tensorflow" "$(pin tensorflow)" | sha256 | cut -c1-16)
}

stack_info() {
  printf '%s\n' "stack $stack" "why $why" "python $python" "tensorflow $tensorflow $(pin tensorflow)" \
    "numpy $(pin numpy)" "constraints ${constraints##*/}"
}

made_from() { # What .venv was made from; reads no Python but .venv's, so that it is quick
  printf '%s\n' "$1" "$root" "$cache" "${PYTHON:-}" "${GMETA_TENSORFLOW:-}" "$without_horovod" \
    "$without_spark" "${GMETA_STACK:-}"
  "$venv/bin/python" -I -S -c 'import sys; print(sys.version)'
  cat "$root"/constraints*.txt "$build_pins" "$sok_pin" "$root/setup.py" "${BASH_SOURCE[0]}" | sha256
}

is_current() {
  local env_dir
  [ -s "$stamp" ] && [ -x "$venv/bin/python" ] || return 1
  read -r env_dir <"$stamp"
  [ -n "$without_horovod" ] || [ -e "$venv/sources" ] || return 1
  [ -f "$env_dir/.complete" ] && made_from "$env_dir" 2>/dev/null | cmp -s - "$stamp"
}

# ------------------------------------------- checks, before anything is written

has_tensorflow() { # has_tensorflow WHEEL: does this Horovod wheel hold the TensorFlow operations?
  "$python" -c 'import sys, zipfile
names = zipfile.ZipFile(sys.argv[1]).namelist()
sys.exit(not any(name.startswith("horovod/tensorflow/mpi_lib") for name in names))' "$1" 2>/dev/null
}

find_wheel() { # Sets wheel: the cached Horovod wheel, empty where there is none
  wheel=
  for wheel in "$wheel_dir"/horovod-*.whl; do
    if [ ! -e "$wheel" ]; then wheel=; fi
  done
}

find_compiler() { # Sets compiler
  for compiler in ${CXX:-c++ g++ clang++}; do
    if echo '#include <vector>' | "$compiler" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null; then
      return
    fi
  done
  fail "no C++17 compiler (looked for ${CXX:-c++, g++, clang++}); Horovod is built from source" \
    "install one (on Debian: apt-get install g++ make), name it in CXX, or leave Horovod out:
       GMETA_WITHOUT_HOROVOD=1 bash launch/setup.sh"
}

preflight() {
  if [ -e "$venv" ] && [ ! -e "$stamp" ]; then
    fail "$venv exists, and this script did not make it" "move it away, and run again"
  fi
  if [ -f "$env_dir/.complete" ]; then return; fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments" "on Debian: apt-get install python3-venv"
  if [ -n "$without_horovod" ]; then return; fi
  find_wheel
  if [ -z "$wheel" ]; then
    find_compiler
    command -v make >/dev/null ||
      fail "no make; Horovod is built from source" "install it (on Debian: apt-get install make)"
  else
    has_tensorflow "$wheel" ||
      fail "Horovod was built without TensorFlow: $wheel" "remove that file, and run again"
  fi
}

# -------------------------------------------------- the cached environment

fetch() { # fetch WHAT PIP-ARGUMENT...
  local what=$1
  shift
  "$env_dir/bin/python" -m pip "$@" >>"$log" 2>&1 || not_fetched "$what"
}

not_fetched() { # not_fetched WHAT
  fail "pip could not fetch $1. The end of $log:
$(log_end)" "is the package registry within reach? With a mirror: PIP_INDEX_URL=https://HOST/simple
       bash launch/setup.sh. Without a network: GMETA_CACHE=FOLDER, where a machine of the same
       kind has filled FOLDER at the same path"
}

build_horovod() { # Sets wheel
  local version built status=0
  version=$(pin horovod)
  find_wheel
  if [ -n "$wheel" ]; then return; fi
  say "building Horovod $version with Gloo (3 to 5 minutes on 2 cores)"
  env HOROVOD_CMAKE="$env_dir/bin/cmake" CXX="$compiler" \
    MAKEFLAGS="${MAKEFLAGS:--j$(getconf _NPROCESSORS_ONLN)}" \
    bash "$root/launch/build_horovod.sh" "$env_dir/bin/python" "$version" "$scratch/built" \
    >>"$log" 2>&1 || status=$?
  case $status in
    0) ;;
    3) not_fetched "horovod==$version" ;;
    *) fail "Horovod did not build. The end of $log:
$(log_end)" "read the first error in that file; without Horovod: GMETA_WITHOUT_HOROVOD=1 bash launch/setup.sh" ;;
  esac
  built=$(echo "$scratch"/built/horovod-*.whl)
  has_tensorflow "$built" ||
    fail "Horovod was built without TensorFlow; see $log" "report it, with that file"
  mkdir -p "$wheel_dir"
  cp "$built" "$wheel_dir/unfinished" # a rename is atomic, a copy between disks is not
  wheel=$wheel_dir/${built##*/}
  mv "$wheel_dir/unfinished" "$wheel"
}

fetch_sok() { # SOK's source distribution, checked against its hash; without it one can still train
  if [ -n "$without_horovod" ] || [ -d "$sok_dir" ]; then return; fi
  say "fetching SOK's source (9 MB, for tests)"
  # pip runs its setup.py to learn its name. That asks for scikit-build, to build with; it is not.
  mkdir "$scratch/sok"
  echo 'from setuptools import setup' >"$scratch/skbuild.py"
  if env PYTHONPATH="$scratch" "$env_dir/bin/python" -m pip download --no-deps --require-hashes \
    --no-binary :all: --no-build-isolation --dest "$scratch/sok" --requirement "$sok_pin" \
    >>"$log" 2>&1; then
    mkdir -p "$cache/sources"
    cp -R "$scratch/sok" "$sok_dir.unfinished-$$"
    mv "$sok_dir.unfinished-$$" "$sok_dir"
  else
    say "SOK's source could not be fetched, and its tests will fail. The end of $log:"
    log_end
  fi
}

build_env() {
  rm -rf "$env_dir" # what an interrupted run left
  unfinished=$env_dir
  "$python" -m venv "$env_dir" >>"$log" 2>&1 ||
    fail "$python made no virtual environment; see $log" "is the disk full? is $cache writable?"
  say "fetching $tensorflow $(pin tensorflow) (about a minute)"
  fetch "the build tools" install --requirement "$build_pins"
  fetch "$tensorflow" install --constraint "$constraints" "$tensorflow"
  say "fetching the other packages (about a minute)"
  grep -vE "^(tensorflow|tensorflow-cpu|horovod${without_spark:+|pyspark|py4j})==" \
    "$constraints" >"$scratch/others.txt"
  fetch "the packages in ${constraints##*/}" install --constraint "$constraints" \
    --requirement "$scratch/others.txt"
  if [ -z "$without_horovod" ]; then
    build_horovod
    fetch "$wheel" install --no-deps --no-index "$wheel"
    prove 1 "$env_dir/bin/python"
  fi
  touch "$env_dir/.complete"
  unfinished=
}

# ---------------------------------------------------------- the clone's .venv

make_launchers() { # The commands of the cached environment, run by .venv's python
  local script name
  for script in "$env_dir"/bin/*; do
    name=${script##*/}
    case $name in
      python* | activate* | Activate* | cmake | cpack | ctest) continue ;;
    esac
    if [ ! -f "$script" ]; then continue; fi
    # PySpark's commands are shell scripts, and stay what they are.
    if head -n 1 "$script" | grep -aq '^#!.*python'; then
      printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$venv/bin/python" "$script" >"$venv/bin/$name"
      chmod +x "$venv/bin/$name"
    else
      ln -s "$script" "$venv/bin/$name"
    fi
  done
}

make_venv() {
  local path_of='import sysconfig; print(sysconfig.get_path("purelib"))'
  rm -rf "$venv"
  mkdir "$venv"
  touch "$stamp"
  "$python" -m venv --without-pip "$venv"
  # addsitedir and not a bare path: the .pth files there must run too (setuptools' distutils is one)
  printf 'import site; site.addsitedir("%s")\n' "$("$env_dir/bin/python" -c "$path_of")" \
    >"$("$venv/bin/python" -c "$path_of")/gmeta_dependencies.pth"
  make_launchers
  if [ -d "$sok_dir" ]; then ln -s "$sok_dir" "$venv/sources"; fi
  "$venv/bin/python" -m pip install --no-deps --no-index --no-build-isolation --editable "$root" \
    >>"$log" 2>&1 || fail "gmeta_tf could not be installed. The end of $log:
$(log_end)" "mend what it names (setup.py?), and run again"
}

# ------------------------------------------------------------------ the proof

prove() { # prove RANKS COMMAND...: COMMAND runs a Python program on so many ranks
  local ranks=$1 proof=$scratch/prove.py
  shift
  cat >"$proof" <<'EOF'
"""Checks one AllReduce and one AlltoAll against what they must give on any number of ranks."""
import sys

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
rank, size = hvd.rank(), hvd.size()
total = hvd.allreduce(tf.constant([rank + 1.0]), op=hvd.Sum).numpy().tolist()
# Rank r sends 10 r + d to rank d.
sent = tf.constant([10 * rank + destination for destination in range(size)])
received = hvd.alltoall(sent, splits=[1] * size)[0].numpy().tolist()
expected = size, [size * (size + 1) / 2], [10 * source + rank for source in range(size)]
if (int(sys.argv[1]), total, received) != expected:
    sys.exit(f"rank {rank}: {sys.argv[1]} ranks, sum {total}, received {received}; not {expected}")
print("proved", flush=True)
EOF
  TF_CPP_MIN_LOG_LEVEL=2 HOROVOD_CYCLE_TIME=0.1 CUDA_VISIBLE_DEVICES='' \
    timeout --kill-after=10 120 "$@" "$proof" "$ranks" </dev/null >"$scratch/proof" 2>&1 || true
  cat "$scratch/proof" >>"$log"
  if [ "$(grep -c 'proved$' "$scratch/proof")" != "$ranks" ]; then
    fail "Horovod is installed, and its collectives failed on $ranks process(es). The end of $log:
$(log_end)" "does this host resolve its own name ($(uname -n))? Else remove $wheel_dir and $env_dir, and run again"
  fi
}

# ----------------------------------------------------------------------- main

main() {
  without_horovod=${GMETA_WITHOUT_HOROVOD:+without horovod}
  choose_spark
  with_uv=
  case ${1:-} in
    --help | -h) usage && return ;;
    --with-uv) with_uv=yes && shift ;;
    --stack-info) ;;
    --where | '') ;;
    *) usage >&2 && exit 2 ;;
  esac
  check_stack
  if [ $# = 0 ] && is_current; then
    say ".venv is ready (nothing changed)"
    return
  fi
  find_python
  choose_tensorflow
  locate
  if [ "${1:-}" = --stack-info ]; then
    stack_info
    return
  elif [ $# != 0 ]; then
    printf '%s\n' "environment $env_dir" "wheel $wheel_dir" "sok $sok_dir" "logs $cache/logs"
    return
  fi
  preflight

  mkdir -p "$cache/env" "$cache/logs" ||
    fail "the cache $cache cannot be written" "name another folder: GMETA_CACHE=FOLDER"
  exec 9>"$cache/lock"
  if command -v flock >/dev/null && ! flock --nonblock 9; then
    say "waiting for another set-up to finish (it holds $cache/lock)"
    flock 9
  fi
  if is_current; then # the set-up that was waited for did it
    say ".venv is ready"
    return
  fi
  trap cleanup EXIT
  trap 'exit 130' INT TERM
  scratch=$(mktemp -d)
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

  say "the $stack stack, since $why"
  say "Python: $python; cache: $cache"
  if [ ! -f "$env_dir/.complete" ]; then build_env; fi
  fetch_sok
  say "making .venv"
  make_venv
  if [ -z "$without_horovod" ]; then
    say "checking Horovod on 2 processes"
    prove 2 "$venv/bin/horovodrun" -np 2 "$venv/bin/python"
  fi
  made_from "$env_dir" >"$stamp"
  if [ -n "$without_horovod" ] || [ -d "$sok_dir" ]; then rm -f "$log"; fi
  say ".venv is ready: $venv/bin/python"
}

main "$@"
