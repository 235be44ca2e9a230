"""gmeta_tf: meta-learning recommenders on many workers, without parameter servers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gmeta_tf import _moved

if TYPE_CHECKING:
    from gmeta_tf.cli.runs import load_run as load_run
    from gmeta_tf.distributed.world import World as World
    from gmeta_tf.embedding.dynamic.rules import DynamicTable as DynamicTable
    from gmeta_tf.embedding.row_optimizers import SGD as SGD
    from gmeta_tf.embedding.row_optimizers import Adagrad as Adagrad
    from gmeta_tf.embedding.row_optimizers import Ftrl as Ftrl
    from gmeta_tf.embedding.row_optimizers import LazyAdam as LazyAdam
    from gmeta_tf.embedding.row_optimizers import RowWiseAdagrad as RowWiseAdagrad
    from gmeta_tf.embedding.sharded import ShardedEmbedding as ShardedEmbedding
    from gmeta_tf.meta.closed_form import ClosedForm as ClosedForm
    from gmeta_tf.meta.evidence import evidence_candidates as evidence_candidates
    from gmeta_tf.meta.inner_loop import InnerLoop as InnerLoop
    from gmeta_tf.meta.losses import RowLoss as RowLoss
    from gmeta_tf.meta.losses import rating_loss as rating_loss
    from gmeta_tf.meta.meta_model import MetaModel as MetaModel
    from gmeta_tf.meta_io.batches.task_batches import Progress as Progress
    from gmeta_tf.meta_io.batches.task_batches import TaskBatches as TaskBatches
    from gmeta_tf.meta_io.preparing.prepare import prepare as prepare
    from gmeta_tf.meta_io.preparing.split import Split as Split
    from gmeta_tf.meta_io.records.records import Records as Records
    from gmeta_tf.meta_io.sources.reader_options import ReaderOptions as ReaderOptions
    from gmeta_tf.meta_io.sources.sources import files_source as files_source
    from gmeta_tf.saving.checkpoints.best_epoch import BestEpoch as BestEpoch
    from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint as latest_checkpoint
    from gmeta_tf.saving.checkpoints.checkpoint import load_checkpoint as load_checkpoint
    from gmeta_tf.saving.checkpoints.checkpoint import save_checkpoint as save_checkpoint
    from gmeta_tf.saving.deltas.apply_delta import apply_delta as apply_delta
    from gmeta_tf.saving.exports.export import export_saved_model as export_saved_model
    from gmeta_tf.saving.runs.run_folder import RunFolder as RunFolder
    from gmeta_tf.saving.serving.predictor import Predictor as Predictor
    from gmeta_tf.schema import Field as Field
    from gmeta_tf.schema import Schema as Schema
    from gmeta_tf.schema import SideTable as SideTable
    from gmeta_tf.schema import Table as Table

__version__ = "0.1.0"

# Names are imported when they are first used, so that `gmeta-tf --help` does not wait for
# TensorFlow.
_HOME = {
    "Adagrad": "gmeta_tf.embedding.row_optimizers",
    "BestEpoch": "gmeta_tf.saving.checkpoints.best_epoch",
    "ClosedForm": "gmeta_tf.meta.closed_form",
    "DynamicTable": "gmeta_tf.embedding.dynamic.rules",
    "Field": "gmeta_tf.schema",
    "Ftrl": "gmeta_tf.embedding.row_optimizers",
    "InnerLoop": "gmeta_tf.meta.inner_loop",
    "LazyAdam": "gmeta_tf.embedding.row_optimizers",
    "MetaModel": "gmeta_tf.meta.meta_model",
    "Predictor": "gmeta_tf.saving.serving.predictor",
    "Progress": "gmeta_tf.meta_io.batches.task_batches",
    "ReaderOptions": "gmeta_tf.meta_io.sources.reader_options",
    "Records": "gmeta_tf.meta_io.records.records",
    "RowLoss": "gmeta_tf.meta.losses",
    "RowWiseAdagrad": "gmeta_tf.embedding.row_optimizers",
    "RunFolder": "gmeta_tf.saving.runs.run_folder",
    "SGD": "gmeta_tf.embedding.row_optimizers",
    "Schema": "gmeta_tf.schema",
    "ShardedEmbedding": "gmeta_tf.embedding.sharded",
    "ShrunkRows": "gmeta_tf.embedding.row_shrinkage",
    "SideTable": "gmeta_tf.schema",
    "Split": "gmeta_tf.meta_io.preparing.split",
    "Table": "gmeta_tf.schema",
    "TaskBatches": "gmeta_tf.meta_io.batches.task_batches",
    "World": "gmeta_tf.distributed.world",
    "apply_delta": "gmeta_tf.saving.deltas.apply_delta",
    "evidence_candidates": "gmeta_tf.meta.evidence",
    "export_saved_model": "gmeta_tf.saving.exports.export",
    "files_source": "gmeta_tf.meta_io.sources.sources",
    "latest_checkpoint": "gmeta_tf.saving.checkpoints.checkpoint",
    "load_checkpoint": "gmeta_tf.saving.checkpoints.checkpoint",
    "load_run": "gmeta_tf.cli.runs",
    "models": "gmeta_tf.models",
    "prepare": "gmeta_tf.meta_io.preparing.prepare",
    "rating_loss": "gmeta_tf.meta.losses",
    "save_checkpoint": "gmeta_tf.saving.checkpoints.checkpoint",
}

__all__ = sorted(_HOME)

_moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gmeta_tf' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    return module if name == "models" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
