"""Interpreter shutdown while tf.data still asks Python for plans.

A TensorFlow thread that is inside Python when the interpreter shuts down never returns, and the
process waits for it for ever. So once shutdown begins no plan is started, and shutdown waits for
the plans under way.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import time
from types import FrameType

import tensorflow as tf

__all__ = ["until_shutdown", "while_running"]

_LONGEST_WAIT_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
# Where TensorFlow's threads enter Python.
_DOOR = "tensorflow/python/ops/script_ops.py"


def until_shutdown() -> tf.data.Dataset:
    """Zeros until interpreter shutdown, for a dataset that calls Python to map."""
    return while_running(tf.data.Dataset.from_tensors(0).repeat())


def while_running(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset up to interpreter shutdown, for a `map` that calls Python."""
    is_shutting_down = _is_shutting_down()
    # TensorFlow evaluates this, without Python, before each call.
    return dataset.take_while(lambda _: tf.logical_not(is_shutting_down))


@functools.cache
def _is_shutting_down() -> tf.Variable:
    with tf.init_scope(), tf.device("/CPU:0"):
        is_shutting_down = tf.Variable(False, trainable=False)
    atexit.register(_wait_for_python, is_shutting_down)
    return is_shutting_down


def _wait_for_python(is_shutting_down: tf.Variable) -> None:
    is_shutting_down.assign(True)
    own, give_up = threading.get_ident(), time.monotonic() + _LONGEST_WAIT_SECONDS
    is_inside = True
    while is_inside and time.monotonic() < give_up:
        time.sleep(_PAUSE_SECONDS)  # time for a thread that has just passed the check to show
        frames = {thread: frame for thread, frame in sys._current_frames().items() if thread != own}
        is_inside = any(_is_called_by_tensorflow(frame) for frame in frames.values())


def _is_called_by_tensorflow(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(_DOOR):
            return True
        frame = frame.f_back
    return False
