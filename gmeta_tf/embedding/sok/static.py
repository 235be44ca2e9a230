"""The rows of known vocabularies, in a variable of SOK."""

from __future__ import annotations

import tensorflow as tf

from gmeta_tf.distributed.world import World
from gmeta_tf.embedding.sok.backend import SokShard, start_sok
from gmeta_tf.embedding.static_shard import StaticShard, TableRange

__all__ = ["SokStaticShard"]


class SokStaticShard(SokShard):
    """The rows of known vocabularies that this rank owns: `key % W == rank`, at row `key // W`.

    SOK and `StaticShard` share that rule. So a `StaticShard` does all that is local, on a variable
    of SOK: the initial rows, the slots and the updates.
    """

    def __init__(
        self,
        tables: tuple[TableRange, ...],
        width: int,
        world: World,
        *,
        scale: float,
        name: str,
    ) -> None:
        """Builds the shard with its initial rows. Starts SOK.

        Args:
            tables: the tables, in order and without gaps.
            width: D.
            world: whose shard.
            scale: the largest absolute initial value.
            name: of the variable.
        """
        sok = start_sok(world)

        def make_rows(num_rows: int) -> tf.Variable:
            # With an initial value every rank would hold the whole table; an initializer is
            # called for this rank's rows only.
            return sok.Variable(
                shape=(num_rows, width),
                initializer=lambda shape, dtype: tf.zeros(shape, dtype),
                dtype=tf.float32,
                name=f"{name}/rows",
            )

        self._shard = StaticShard(tables, width, world, scale=scale, name=name, make_rows=make_rows)
        super().__init__(self._shard.rows, width, world, name=name)
        self.tables, self.num_rows = tables, self._shard.num_rows
        self.make_slots, self.update = self._shard.make_slots, self._shard.update
        self.gather, self.locate = self._shard.gather, self._shard.locate
        self.read_state, self.write_state = self._shard.read_state, self._shard.write_state
        self.begin_anew = self._shard.begin_anew

    @property
    def rows(self) -> tf.Variable:
        """SOK's variable, float32 `[ceil((num_rows - rank) / W), D]`."""
        return self._shard.rows

    @property
    def slots(self) -> dict[str, tf.Variable]:
        """The slots of the row optimizer, in plain variables of as many rows."""
        return self._shard.slots

    @property
    def num_state_rows(self) -> int:
        """How many rows the shard's part of a checkpoint has."""
        return self._shard.num_state_rows

    @property
    def state_variables(self) -> dict[str, tf.Variable]:
        """The shard's part of a checkpoint: `rows`, and each slot as `slot_<name>`."""
        return self._shard.state_variables
