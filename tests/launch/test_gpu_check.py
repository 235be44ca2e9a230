"""launch/gpu_check.sh: what it says without a GPU, and that its items run and can fail.

The items themselves are for GPUs. Those that compare numbers run here too, over the stubs of SOK's
kernels, so that a slip of theirs shows before someone takes them to a GPU.
"""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

import gmeta_tf as gm

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch/gpu_check.sh"
TOOLS = "bash dirname grep cat mktemp rm timeout tail head cut sed"


def check(folder, *items, **commands):
    """Runs the script with a PATH of its own: what it needs, and made commands."""
    for tool in TOOLS.split():
        (folder / tool).symlink_to(shutil.which(tool))
    for name, script in commands.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return subprocess.run(
        [shutil.which("bash"), SCRIPT, *items],
        env={"PATH": str(folder), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("commands", [{}, {"nvidia_smi": "exit 9"}], ids=["none", "no_driver"])
def test_without_a_gpu_it_refuses_and_says_where_to_go(tmp_path, commands):
    run = check(tmp_path, **commands)
    assert run.returncode == 1
    assert "FAILED: no GPU (nvidia-smi lists none)" in run.stderr
    assert "REMEDY: run this on a machine with NVIDIA GPUs" in run.stderr
    assert "PASS" not in run.stdout


def test_without_a_tensorflow_that_sees_it(tmp_path):
    run = check(tmp_path, nvidia_smi="echo GPU 0: made up", python="exit 1")
    assert run.returncode == 1
    assert "FAILED: TensorFlow of python sees no GPU" in run.stderr
    assert "launch/gpu/build.sh" in run.stderr


def test_each_item_passes_or_fails_by_itself(tmp_path):
    """A made Python: it finds all that is looked for, and fails at the kernels."""
    python = """
case "$*" in
  *executable*) echo /nowhere/python ;;
  *kernels) echo "rank 0: differs: dist_select" && exit 1 ;;
  *checks.py*) echo "rank 0: compared this with that" ;;
esac"""
    run = check(tmp_path, "devices", "kernels", nvidia_smi="echo GPU 0: made up", python=python)
    assert run.returncode == 1
    assert "PASS devices on 1 rank(s): compared this with that" in run.stdout
    assert "LEFT OUT devices on several ranks: there is one GPU" in run.stdout
    assert "FAIL kernels on 1 rank(s), status 1" in run.stdout
    assert "| rank 0: differs: dist_select" in run.stdout
    assert "static" not in run.stdout
    assert "FAILED: 1 item(s)" in run.stderr


def test_an_unknown_item(tmp_path):
    run = check(tmp_path, "everything")
    assert run.returncode == 2
    assert "no item is called everything" in run.stderr


@pytest.fixture(scope="module")
def checks():
    spec = importlib.util.spec_from_file_location("checks", ROOT / "tests/gpu/checks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_items_and_page_and_script_are_of_one_mind(checks):
    script = SCRIPT.read_text()
    (names,) = re.findall(r"^names=\((.*)\)$", script, re.MULTILINE)
    assert names.split() == list(checks.ITEMS)
    assert set(re.findall(r"(\w+):(?:1|all)\b", script)) == set(checks.ITEMS)
    _, page = (ROOT / "docs/gpu.md").read_text().split("## What has not been run")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(checks.ITEMS)


@pytest.mark.parametrize("item", ["kernels", "static", "dynamic", "empty_reads"])
def test_an_item_over_the_stubs(checks, sok, item):
    assert " with " in checks.ITEMS[item](gm.World())


def test_the_kernels_item_can_fail(checks, sok, monkeypatch):
    monkeypatch.setattr(sok.raw_ops, "reorder", lambda rows, order: tf.gather(rows, order))
    with pytest.raises(AssertionError, match="reorder: 33 keys to"):
        checks.kernels(gm.World())


def test_the_static_item_can_fail(checks, sok, monkeypatch):
    look_up = sok.all2all_dense_embedding
    monkeypatch.setattr(
        sok, "all2all_dense_embedding", lambda variable, keys: 1.001 * look_up(variable, keys)
    )
    with pytest.raises(AssertionError, match="sgd: tables of embedded after 5 steps"):
        checks.static(gm.World())


def test_the_small_reads_item_can_fail(checks, sok, monkeypatch):
    """What the source of HierarchicalKV is suspected of: rows that no kernel filled."""

    class Unfilled:
        def __init__(self, **options):
            pass

        def sparse_read(self, keys):
            return tf.constant(np.full([8, 4], checks.LEFT_OVER, np.float32))

    monkeypatch.setattr(sok, "DynamicVariable", Unfilled)
    with pytest.raises(AssertionError, match="random: rows hold what was there before"):
        checks.small_reads(gm.World())
