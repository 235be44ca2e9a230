"""Which checkpoint of a run to load: the newest, one by its name, or the newest that is whole."""

from __future__ import annotations

import dataclasses
import logging
import pathlib

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.distributed.world import World
from gmeta_tf.saving.checkpoint import (
    CheckedCheckpoint,
    checked_checkpoint,
    complete_checkpoints,
)
from gmeta_tf.saving.manifest import DamagedCheckpointError

__all__ = ["ChosenCheckpoint", "choose_checkpoint", "set_aside"]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChosenCheckpoint:
    """The checkpoint to load, and those that come after it.

    Attributes:
        checked: the one that was chosen, found whole.
        later: the names of newer ones, which were passed over: damaged, or not asked for.
    """

    checked: CheckedCheckpoint
    later: tuple[str, ...]


def choose_checkpoint(
    folder: pathlib.Path, world: World, *, name: str | None = None, fall_back: bool = False
) -> ChosenCheckpoint | None:
    """Finds and checks the checkpoint to load. Every rank must call it.

    Args:
        folder: what holds a run's checkpoints.
        world: the ranks.
        name: of the checkpoint to take; None takes the newest.
        fall_back: where that one is damaged, take the newest earlier one that is not.

    Returns:
        The choice; None where the folder has no complete checkpoint and none was named.

    Raises:
        ValueError: no complete checkpoint of that name.
        DamagedCheckpointError: what was chosen is damaged, and all earlier ones too with
            `fall_back`.
    """
    names = on_chief(lambda: _complete(folder, name), world, name="checkpoint_choice")
    first = len(names) - 1 if name is None else names.index(name)
    for position in range(first, -1, -1):
        try:
            checked = checked_checkpoint(folder / names[position], world)
        except DamagedCheckpointError as error:
            if not fall_back or position == 0:
                raise
            if world.is_chief:
                _LOG.warning("%s Falling back to %s.", error, names[position - 1])
        else:
            return ChosenCheckpoint(checked, tuple(names[position + 1 :]))
    return None


def set_aside(folder: pathlib.Path, names: tuple[str, ...], aside: pathlib.Path) -> None:
    """Moves checkpoints out of a run's way, so that a run that goes on from an earlier one ends
    with the newest. No collective; rank 0 calls it.

    Args:
        folder: what holds them.
        names: the checkpoints.
        aside: where they go to, under their names, or with a number behind where those are taken.
    """
    for name in names:
        aside.mkdir(parents=True, exist_ok=True)
        free = (aside / f"{name}{end}" for end in ("", *(f"-{n}" for n in range(1, 10_000))))
        target = next(path for path in free if not path.exists())
        (folder / name).rename(target)
        _LOG.warning("%s is newer than where the run goes on; moved to %s.", folder / name, target)


def _complete(folder: pathlib.Path, name: str | None) -> list[str]:
    """The names of complete checkpoints, the oldest first."""
    names = [path.name for path in complete_checkpoints(folder)]
    if name is not None and name not in names:
        raise ValueError(
            f"expected --checkpoint to be one of {', '.join(names) or 'none, as there is none'}, "
            f"in {folder}; got {name!r}."
        )
    return names
