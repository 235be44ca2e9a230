"""Ending a process while tf.data still asks Python for plans.

A thread of TensorFlow's that is inside Python when the interpreter shuts down never comes out
again, and the process then waits for it for ever. So once the process ends no plan is begun, and
the end waits for those that have begun.
"""

from __future__ import annotations

import atexit
import functools
import sys
import threading
import time
from types import FrameType

import tensorflow as tf

__all__ = ["until_exit"]

_LONGEST_WAIT_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
# Where TensorFlow's threads enter Python.
_DOOR = "tensorflow/python/ops/script_ops.py"


def until_exit() -> tf.data.Dataset:
    """Zeros without end, but for the end of the process: what a dataset that calls Python maps."""
    is_leaving = _is_leaving()
    zeros = tf.data.Dataset.from_tensors(0).repeat()
    # TensorFlow asks, not Python, and before each call.
    return zeros.take_while(lambda _: tf.logical_not(is_leaving))


@functools.cache
def _is_leaving() -> tf.Variable:
    with tf.init_scope(), tf.device("/CPU:0"):
        is_leaving = tf.Variable(False, trainable=False)
    atexit.register(_wait_for_python, is_leaving)
    return is_leaving


def _wait_for_python(is_leaving: tf.Variable) -> None:
    is_leaving.assign(True)
    own, give_up = threading.get_ident(), time.monotonic() + _LONGEST_WAIT_SECONDS
    is_inside = True
    while is_inside and time.monotonic() < give_up:
        time.sleep(_PAUSE_SECONDS)  # a thread that has just passed the gate comes to be seen
        frames = {thread: frame for thread, frame in sys._current_frames().items() if thread != own}
        is_inside = any(_is_called_by_tensorflow(frame) for frame in frames.values())


def _is_called_by_tensorflow(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.endswith(_DOOR):
            return True
        frame = frame.f_back
    return False
