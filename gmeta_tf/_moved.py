"""Modules and attributes under the names that they had before; for one release."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import operator
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["MOVED", "install", "renamed", "warn_of"]

MOVED = {
    "gmeta_tf.baseline": "gmeta_tf.evaluation.baseline",
    "gmeta_tf.callbacks": "gmeta_tf.saving.runs.run_folder",
    "gmeta_tf.checkpoint": "gmeta_tf.saving.checkpoints.checkpoint",
    "gmeta_tf.collectives": "gmeta_tf.distributed.collectives",
    "gmeta_tf.export": "gmeta_tf.saving.exports.export",
    "gmeta_tf.launch": "gmeta_tf.cli",
    "gmeta_tf.launch.cli": "gmeta_tf.cli.main",
    "gmeta_tf.launch.options": "gmeta_tf.cli.options",
    "gmeta_tf.meta.outer_loop": "gmeta_tf.meta.meta_model",
    "gmeta_tf.meta_io.ali_ccp": "gmeta_tf.meta_io.sources.ali_ccp",
    "gmeta_tf.meta_io.criteo": "gmeta_tf.meta_io.sources.criteo",
    "gmeta_tf.meta_io.movielens": "gmeta_tf.meta_io.sources.movielens",
    "gmeta_tf.meta_io.pipeline": "gmeta_tf.meta_io.batches.task_batches",
    "gmeta_tf.meta_io.prepare": "gmeta_tf.meta_io.preparing.prepare",
    "gmeta_tf.meta_io.taobao": "gmeta_tf.meta_io.sources.taobao",
    "gmeta_tf.metrics": "gmeta_tf.evaluation.metrics",
    "gmeta_tf.predictor": "gmeta_tf.saving.serving.predictor",
    "gmeta_tf.saving.apply_delta": "gmeta_tf.saving.deltas.apply_delta",
    "gmeta_tf.saving.best_epoch": "gmeta_tf.saving.checkpoints.best_epoch",
    "gmeta_tf.saving.checkpoint": "gmeta_tf.saving.checkpoints.checkpoint",
    "gmeta_tf.saving.export": "gmeta_tf.saving.exports.export",
    "gmeta_tf.saving.predictor": "gmeta_tf.saving.serving.predictor",
    "gmeta_tf.saving.run_folder": "gmeta_tf.saving.runs.run_folder",
    "gmeta_tf.world": "gmeta_tf.distributed.world",
}
"""An earlier name -> today's."""


def warn_of(old: str, new: str) -> None:
    """Warns whoever imports by an earlier name."""
    warnings.warn(
        f"{old} is {new} now; the earlier name goes with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )


def renamed(owner: str, old: str, new: str) -> property:
    """An attribute under its earlier name.

    Args:
        owner: the class.
        old: the earlier name.
        new: today's; with dots where it is an attribute of an attribute.
    """

    def found(self: object) -> Any:
        warn_of(f"{owner}.{old}", f"{owner}.{new}")
        return operator.attrgetter(new)(self)

    return property(found, doc=f"`{new}` by its earlier name; for one release.")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the earlier names, after everything that looks in folders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in MOVED:
            return None
        is_package = any(other.startswith(f"{name}.") for other in MOVED)
        return importlib.machinery.ModuleSpec(name, self, is_package=is_package)

    def exec_module(self, module: types.ModuleType) -> None:
        # A module of its own that hands everything on: the real one's __spec__ must stay its own.
        new = MOVED[module.__name__]
        warn_of(module.__name__, new)
        module.__dict__["__getattr__"] = lambda name: getattr(importlib.import_module(new), name)


def install() -> None:
    """Lets the earlier names be imported. Idempotent."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
