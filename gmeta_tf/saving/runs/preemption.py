"""A signal that the machine is about to be taken away → all ranks stop after the same step."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import tensorflow as tf

from gmeta_tf.distributed.collectives import allreduce_sum
from gmeta_tf.distributed.world import World

__all__ = ["PREEMPTED", "Preemption"]

# EX_TEMPFAIL of sysexits.h, which gmeta_tf.launching.ranks knows.
PREEMPTED = 75

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_FIRST_STEPS = 8
_EVERY_SECONDS = 1.0
_MOST_STEPS = 1000


class Preemption:
    """Whether SIGTERM or SIGUSR1 has come to any rank, asked of all together about once a second.

    A rank that has got the signal may not stop by itself: the others would wait for it. After as
    many steps as take about a second the ranks add up who has; the number of steps follows from
    rank 0's clock and travels with the sum, so that it is the same everywhere.

    Signals are looked at in the main thread alone, where Python takes them; elsewhere, as in a
    notebook's threads, they keep what they do.
    """

    def __init__(self, world: World) -> None:
        """Args: world: the ranks."""
        self._world = world
        self._is_asked = False
        self._every = _FIRST_STEPS
        self._since = 0
        self._began = time.monotonic()
        self._before: dict[int, Any] = {}

    def begin(self) -> None:
        """Takes the signals, until `end`. A second one does what it did before."""
        self._since, self._began = 0, time.monotonic()
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def end(self) -> None:
        """Gives the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def after_step(self) -> bool:
        """Whether all ranks are to stop here; every rank must call it after each step."""
        self._since += 1
        if not self._world.is_distributed:
            return self._is_asked
        return self._since >= self._every and self.agreed()

    def agreed(self) -> bool:
        """Whether any rank was asked to stop; every rank must call it."""
        seconds = (time.monotonic() - self._began) / max(1, self._since)
        told = [float(self._is_asked), seconds if self._world.is_chief else 0.0]
        (total,) = allreduce_sum([tf.constant(told)], self._world, name="preemption")
        asked, seconds = (float(number) for number in total.numpy())
        if self._since:
            self._every = int(min(_MOST_STEPS, max(1.0, _EVERY_SECONDS / max(seconds, 1e-6))))
            self._since, self._began = 0, time.monotonic()
        return asked > 0

    def _note(self, number: int, _: object) -> None:
        self._is_asked = True
        signal.signal(number, self._before.get(number, signal.SIG_DFL))
