"""What the other ranks say when one is lost; without TensorFlow."""

from __future__ import annotations

from gmeta_tf.distributed.world import World

__all__ = ["LostRankError", "is_of_lost_rank"]

# Of Horovod, once it knows; of Gloo, in the very collective that the lost rank was in.
_TEXTS = ("Horovod has been shut down", "HorovodInternalError", "third_party/compatible17_gloo")


class LostRankError(RuntimeError):
    """Another rank failed or was killed, so that this one cannot go on."""

    def __init__(self, world: World) -> None:
        super().__init__(
            f"rank {world.rank} stopped because another rank did; that rank's message says why, or "
            "if it has none, it was killed: the launcher tells its exit code (137: often too "
            "little memory). What was saved before is as it was; `gmeta-tf train --resume` goes on."
        )


def is_of_lost_rank(error: Exception) -> bool:
    """Whether a collective failed because another rank has gone.

    Example:
        >>> is_of_lost_rank(RuntimeError("Horovod has been shut down. This was caused by ..."))
        True
        >>> is_of_lost_rank(RuntimeError("another fault"))
        False
    """
    return any(text in str(error) or text == type(error).__name__ for text in _TEXTS)
