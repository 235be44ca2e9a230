"""What each subcommand of `gmeta-tf` takes: one frozen dataclass each, one flag for each field.

Nothing here imports TensorFlow, and each class checks its own values, so that a wrong flag is told
at once.
"""

from __future__ import annotations

from gmeta_tf.cli.data_options import (
    CheckOptions,
    InspectOptions,
    PrepareOptions,
    ReaderFlags,
    SchemaOptions,
)
from gmeta_tf.cli.launch_options import DoctorOptions, LaunchOptions
from gmeta_tf.cli.model_options import PlanOptions, StepOptions
from gmeta_tf.cli.option_fields import description_of, flag_of, help_of
from gmeta_tf.cli.run_options import (
    ApplyDeltaOptions,
    CandidatesOptions,
    EvaluateOptions,
    ExportOptions,
    PlayOptions,
    PredictOptions,
    ReportOptions,
    ServeOptions,
)
from gmeta_tf.cli.train_options import TrainOptions

__all__ = [
    "ApplyDeltaOptions",
    "CandidatesOptions",
    "CheckOptions",
    "DoctorOptions",
    "EvaluateOptions",
    "ExportOptions",
    "InspectOptions",
    "LaunchOptions",
    "PlanOptions",
    "PlayOptions",
    "PredictOptions",
    "PrepareOptions",
    "ReaderFlags",
    "ReportOptions",
    "SchemaOptions",
    "ServeOptions",
    "StepOptions",
    "TrainOptions",
    "description_of",
    "flag_of",
    "help_of",
]
