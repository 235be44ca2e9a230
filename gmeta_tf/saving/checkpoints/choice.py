"""Which checkpoint of a run to load: the best, the newest, a named or a whole one."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

from gmeta_tf.distributed.verdicts import on_chief
from gmeta_tf.distributed.world import World
from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch
from gmeta_tf.saving.checkpoints.checkpoint import (
    CheckedCheckpoint,
    checked_checkpoint,
    complete_checkpoints,
)
from gmeta_tf.saving.checkpoints.manifest import DamagedCheckpointError, read_manifest

__all__ = ["ChosenCheckpoint", "choose_checkpoint", "set_aside"]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChosenCheckpoint:
    """The checkpoint to load, and those that come after it.

    Attributes:
        checked: the one that was chosen, found whole.
        later: the names of newer ones, which were passed over: damaged, or not asked for.
        best: which epoch of the run is the best, where it compares them and none was named.
    """

    checked: CheckedCheckpoint
    later: tuple[str, ...]
    best: BestEpoch | None = None

    def reason(self) -> str:
        """Why this one, for a person."""
        if self.best is None:
            return "as --checkpoint or --fall-back chose" if self.later else "the newest"
        if self.best.checkpoint == self.checked.path.name:
            return self.best.describe()
        return f"{self.best.describe()}, but its checkpoint could not be taken"


def choose_checkpoint(
    folder: pathlib.Path,
    world: World,
    *,
    name: str | None = None,
    fall_back: bool = False,
    best: bool = False,
) -> ChosenCheckpoint | None:
    """Finds and checks the checkpoint to load. Every rank must call it.

    Args:
        folder: what holds a run's checkpoints.
        world: the ranks.
        name: of the checkpoint to take; None takes the newest.
        fall_back: where that one is damaged, take the newest earlier one that is not.
        best: without a name, take the best by the validation, where the run compares epochs. Where
            that is damaged, `fall_back` takes the newest other one that is not.

    Returns:
        The choice; None where the folder has no complete checkpoint and none was named.

    Raises:
        ValueError: no complete checkpoint of that name.
        DamagedCheckpointError: what was chosen is damaged, and all earlier ones too with
            `fall_back`.
    """
    names = on_chief(lambda: _complete(folder, name), world, name="checkpoint_choice")
    if not names:
        return None
    found = None
    if best and name is None:
        found = on_chief(lambda: _best(folder, names, fall_back), world, name="checkpoint_best")
    known = None if found is None else BestEpoch.from_json(found)
    order = names[::-1] if name is None else names[names.index(name) :: -1]
    if known is not None and known.checkpoint in names:
        order = [known.checkpoint, *(other for other in order if other != known.checkpoint)]
    for candidate, following in zip(order, [*order[1:], None], strict=True):
        try:
            checked = checked_checkpoint(folder / candidate, world)
        except DamagedCheckpointError as error:
            if not fall_back or following is None:
                raise
            if world.is_chief:
                _LOG.warning("%s Falling back to %s.", error, following)
        else:
            later = tuple(names[names.index(candidate) + 1 :])
            return ChosenCheckpoint(checked, later, known)
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


def _best(folder: pathlib.Path, names: list[str], fall_back: bool) -> dict[str, Any] | None:
    """What the newest checkpoint says of the best epoch; with `fall_back` the newest readable."""
    for name in reversed(names):
        try:
            best: dict[str, Any] | None = read_manifest(folder / name)["details"].get("best")
        except DamagedCheckpointError:
            if not fall_back:
                return None  # the newest is then chosen, and told to be damaged
        else:
            return best
    return None


def _complete(folder: pathlib.Path, name: str | None) -> list[str]:
    """The names of complete checkpoints, the oldest first."""
    names = [path.name for path in complete_checkpoints(folder)]
    if name is not None and name not in names:
        raise ValueError(
            f"expected --checkpoint to be one of {', '.join(names) or 'none, as there is none'}, "
            f"in {folder}; got {name!r}."
        )
    return names
