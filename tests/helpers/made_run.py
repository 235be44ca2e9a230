"""A run's folder as `gmeta-tf train` and `evaluate` leave it, written by hand."""

import dataclasses
import json

import yaml

from gmeta_tf.cli.options import TrainOptions

LOG = (
    "epoch 1  loss 0.7  val_loss 0.6931  val_auc_adapted 0.5123  val_auc_unadapted 0.5011  "
    "input_wait 0.25\n"
    "epoch 2  loss 0.5  val_loss 0.6123  val_auc_adapted 0.6234  val_auc_unadapted 0.5321  "
    "input_wait 0.03125\n"
)
EVALUATION = {
    "loss": 0.61,
    "auc_adapted": 0.7654,
    "auc_unadapted": 0.6543,
    "log_loss_adapted": 0.5432,
    "log_loss_unadapted": 0.6321,
    "auc_baseline": 0.7123,
    "log_loss_baseline": None,
    "baseline": "item",
    "tasks": 1234,
    "samples": 56789,
    "split": "test",
    "support": 10,
    "in_time_order": False,
}

SIDE = {
    "rows": [3, 0, 5],
    "prediction": [0.25, None, 0.75],
    "label": [0.125, None, 0.875],
    "expected_error": 0.0625,
}
# What `evaluate` adds where it is asked for more than its table.
DETAILS = {
    "support_sizes": [
        {"support": 0, "auc_adapted": 0.5, "auc_unadapted": 0.5, "samples": 8.0},
        {"support": 5, "auc_adapted": 0.75, "auc_unadapted": 0.5, "samples": 8.0},
    ],
    "inner_steps_curve": [{"inner_steps": 3, "auc_adapted": None}],
    "by": "age",
    "segments": [
        {"value": "young", "rows": 6.0, "auc_adapted": 0.875, "auc_unadapted": 0.5},
        {"value": None, "rows": 2.0, "auc_adapted": None, "auc_unadapted": None},
    ],
    "calibration": {"adapted": SIDE, "unadapted": SIDE | {"rows": [0, 0, 8]}},
}


def write_run(folder, *, evaluation=EVALUATION, log=LOG, **options):
    """Makes the folder; `options` are of `gmeta-tf train`. Returns it."""
    folder.mkdir(parents=True)
    config = TrainOptions(**({"records": "nowhere", "run": str(folder)} | options))
    (folder / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    (folder / "log.txt").write_text(log)
    metrics = {"loss": 0.5, "epochs": 2, "samples_per_second": 54321.0}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if evaluation is not None:
        (folder / "evaluation-test.json").write_text(json.dumps(evaluation))
    return folder
