"""The job that benchmarks/distributed.py measures in each of its forms: one log, one model."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import keras

import gmeta_tf as gm
from benchmarks.made_log import KEY_COLUMNS, MadeLog
from gmeta_tf.meta_io.preparing.prepare import Split, prepare
from gmeta_tf.meta_io.sources.sources import files_source

__all__ = ["Job"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained: an MLP over the log's eight fields; all of it and the rows adapt.

    Attributes:
        records: the records folder.
        support: S.
        query: Q.
        width: D.
        hidden: the widths of the MLP.
        num_steps: K.
        inner_learning_rate: alpha.
        learning_rate: of SGD, for the dense weights.
        row_learning_rate: of Adagrad, for the rows.
    """

    records: pathlib.Path
    support: int = 20
    query: int = 10
    width: int = 32
    hidden: tuple[int, ...] = (64, 64)
    num_steps: int = 1
    inner_learning_rate: float = 0.1
    learning_rate: float = 0.01
    row_learning_rate: float = 0.1

    @classmethod
    def prepared(cls, log: MadeLog) -> Job:
        """The job on the log's records, which are prepared at the first use."""
        folder = log.folder / "records"
        if not (folder / "schema.json").is_file():
            schema = gm.Schema(
                tuple(gm.Field(name) for name in KEY_COLUMNS),
                label="label",
                task="user",
                time="time",
            )
            split = Split(test_fraction=0.05)
            prepare(files_source(log.parquet_files()), schema, folder, split=split, overwrite=True)
        return cls(folder)

    def batches(self, tasks: int, world: gm.World) -> gm.TaskBatches:
        """The rank's steps."""
        return gm.TaskBatches(
            gm.Records.open(self.records),
            "train",
            tasks=tasks,
            support=self.support,
            query=self.query,
            every_row=True,
            world=world,
        )

    def model(
        self, world: gm.World, *, look_ahead: bool = True, **inner_options: Any
    ) -> gm.MetaModel:
        """The compiled model."""
        schema = gm.Records.open(self.records).schema
        embedding = gm.ShardedEmbedding(schema, self.width, world=world)
        inner = gm.InnerLoop(self.num_steps, self.inner_learning_rate, **inner_options)
        model = gm.MetaModel(gm.models.MeLU(self.hidden), embedding, inner)
        model.compile(
            keras.optimizers.SGD(self.learning_rate),
            gm.Adagrad(self.row_learning_rate),
            look_ahead=look_ahead,
        )
        return model
