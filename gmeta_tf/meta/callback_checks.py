"""Keras' own callbacks: which of them a model over sharded tables cannot serve, and which run once.

Keras knows the dense weights alone. A callback that keeps weights and brings them back would bring
back half a model, without a word.
"""

from __future__ import annotations

from typing import Any

import keras

from gmeta_tf.distributed.world import World

__all__ = ["checked_callbacks"]

_CHECKPOINTS = (
    "Use gmeta_tf.RunFolder(path, batches, checkpoint_every=..., keep=...), whose checkpoints hold "
    "both, and gmeta_tf.load_checkpoint(model, path)."
)
_REFUSED = {
    "ModelCheckpoint": _CHECKPOINTS,
    "OrbaxCheckpoint": _CHECKPOINTS,
    "BackupAndRestore": (
        "Use gmeta_tf.RunFolder(path, batches, checkpoint_every_steps=...) and go on with "
        "TaskBatches(begin=...), or `gmeta-tf train --resume`."
    ),
    "SwapEMAWeights": "Leave it out: rows have no averages.",
}
# What these write or draw is the same on every rank.
_OF_ONE_RANK = ("CSVLogger", "ProgbarLogger", "RemoteMonitor", "TensorBoard")


def checked_callbacks(callbacks: Any, world: World) -> Any:
    """The callbacks that this rank calls.

    Args:
        callbacks: those given to `fit`: one, a list, Keras' CallbackList or None.
        world: the ranks; only rank 0 keeps callbacks that write files or send reports.

    Raises:
        ValueError: a callback that keeps and brings back dense weights and not the rows.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in callbacks.callbacks:
            _check(callback)
        return callbacks
    given = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
    given = [callback for callback in given if callback is not None]
    for callback in given:
        _check(callback)
    return [one for one in given if world.is_chief or not _is_any_of(one, _OF_ONE_RANK)]


def _check(callback: keras.callbacks.Callback) -> None:
    for name, remedy in _REFUSED.items():
        if _is_any_of(callback, (name,)):
            raise ValueError(
                f"fit: expected callbacks that leave weights alone, got {name}, which would save "
                f"the dense weights without the rows of the tables. {remedy}"
            )
    if getattr(callback, "restore_best_weights", False):
        raise ValueError(
            "fit: expected callbacks that leave weights alone, got EarlyStopping with "
            "restore_best_weights=True, which would bring back the dense weights and leave the "
            "tables' rows as they are. Use gmeta_tf.RunFolder(path, batches, "
            "best=gmeta_tf.BestEpoch(metric), patience=...), and its restore_best after fit."
        )


def _is_any_of(callback: object, names: tuple[str, ...]) -> bool:
    """Whether it is one of Keras' classes, or extends one; not every Keras has them all."""
    classes = tuple(
        getattr(keras.callbacks, name) for name in names if hasattr(keras.callbacks, name)
    )
    return isinstance(callback, classes)
