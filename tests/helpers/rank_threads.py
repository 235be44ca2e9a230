"""The ranks of a run as threads of one process, which exchange through memory."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import tensorflow as tf

from gmeta_tf.distributed import collectives, packed_alltoall
from gmeta_tf.embedding import host_routes

_SECONDS = 60


class RankThreads:
    """Runs a function once for each rank, and counts what its AlltoAlls send.

    Attributes:
        sent: (sender, receiver, name) -> bytes.
    """

    def __init__(self, monkeypatch, size):
        self.size, self.sent = size, {}
        self._barriers, self._held, self._lock = {}, {}, threading.Lock()
        for module in (collectives, packed_alltoall):
            monkeypatch.setattr(module, "alltoall", self._alltoall)
        for module in (collectives, packed_alltoall, host_routes):
            monkeypatch.setattr(module, "allreduce_sum", self._allreduce_sum)

    def run(self, function):
        """What `function(rank)` gave for each rank."""
        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(function, range(self.size), timeout=_SECONDS))

    def _shared(self, value, world, name):
        """The values of all ranks of this part of the run, in their order."""
        members = world.members or tuple(range(self.size))
        key = (members, name)
        with self._lock:
            barrier = self._barriers.setdefault(key, threading.Barrier(len(members)))
            self._held[(*key, world.rank)] = value
        barrier.wait(_SECONDS)
        values = [self._held[(*key, rank)] for rank in range(len(members))]
        barrier.wait(_SECONDS)
        return values

    def _alltoall(self, tensor, splits, world, *, name):
        if not world.is_distributed:
            return tensor, splits
        members = world.members or tuple(range(self.size))
        runs = tf.split(tensor, splits, num=world.size)
        values = self._shared(runs, world, name)
        for receiver, run in zip(members, runs, strict=True):
            key = (members[world.rank], receiver, name)
            self.sent[key] = self.sent.get(key, 0) + int(tf.size(run)) * run.dtype.size
        got = [runs[world.rank] for runs in values]
        return tf.concat(got, axis=0), tf.constant([len(run) for run in got], tf.int32)

    def _allreduce_sum(self, tensors, world, *, name):
        if not world.is_distributed:
            return list(tensors)
        values = self._shared(list(tensors), world, name)
        return [tf.add_n(list(each)) for each in zip(*values, strict=True)]
