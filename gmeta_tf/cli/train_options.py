"""The options of `gmeta-tf train`: how tasks adapt, and how the model is trained."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from gmeta_tf import allowed
from gmeta_tf.cli.inner_options import InnerOptions
from gmeta_tf.cli.model_options import BEFORE_THEY_WERE, StepOptions, names_of_model
from gmeta_tf.cli.option_fields import (
    ABOVE_0,
    AT_LEAST_1,
    FINITE,
    RATE,
    check_metric_names,
    flag_of,
    number,
    of_model,
    word,
)
from gmeta_tf.cli.yaml_file import read_yaml

__all__ = ["TrainOptions"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(InnerOptions, StepOptions):
    """Meta-trains a model: alone, or on many workers with `horovodrun -np 2 gmeta-tf train ...`.

    Attributes:
        run: the folder for what the run leaves: config, log, TensorBoard scalars, checkpoints,
            metrics.
        exchange: how rows that are not replicated travel: "flat", between all ranks directly;
            "by-host", within each host first, so that what several of its ranks want crosses hosts
            once; "auto", by host where there are several hosts of as many ranks each, and more than
            one, else flat. The results are equal but for rounding.
        look_ahead: on several ranks, send the next step's keys with the gradients of this one.
        epochs: passes over the tasks; None is 20, and of factors 12.
        optimizer: a Keras optimizer, for the dense weights.
        learning_rate: its learning rate; None is 0.002, and of factors 0.01.
        weight_decay: its weight decay; None is its own.
        row_learning_rate: the row optimizer's learning rate; None is 0.003, and of factors 0.01.
        decay: how both learning rates fall over the epochs: "none" or "cosine", to 0. None is
            cosine.
        row_shrinkage: pulls embedding rows to 0, the more the fewer examples they have, as a
            Gaussian prior of this precision does; None is 0, and of factors 60.
        non_finite: a step with a non-finite gradient (NaN or Inf) is an error ("raise"), or is
            left out and counted ("skip").
        capacity: of each table without a limit (hashed or raw keys without num_rows), the most keys
            over all ranks; None is without limit.
        when_full: of such a table: "evict" the keys seen longest ago, let new keys read the
            "default" row, or "error".
        admit_after: of such a table, the steps that have to see a key before it gets a row.
        time_to_live: of such a table, a key gives its row up after so many steps that did not see
            it; None is never.
        embedding_scale: the largest absolute value of an initial embedding row; None is 0.1.
        loss: "binary_crossentropy" (bce) for labels of 0 and 1, "mean_squared_error" (mse) for
            numbers, or "ratings": adapt to and learn from ratings by their squared error, where the
            schema's positive_from makes clicks of them for the metrics.
        label_centre: of factors, and of ratings as loss or inner_loss, the label about which
            numbers are small; None takes the mean label of the first tasks.
        label_scale: likewise, how far labels are from it; None takes their standard deviation.
        metrics: what `evaluate` reports; None is what the loss suits, auc, task_auc and log_loss
            or rmse and mae.
        validate: evaluate on the split "valid" after each epoch, if the records have it.
        patience: end the run after so many epochs without a better one on the split "valid"; None
            trains all epochs. `evaluate` and `export` then load the best epoch's checkpoint.
        choose_by: the metric that says which epoch is better, of adapted tasks; with it, or with
            patience, the best epoch's checkpoint is kept. None is the first of the metrics.
        checkpoint_every: epochs between checkpoints.
        checkpoint_every_steps: steps between checkpoints within an epoch; None makes none there.
        resume: go on from the run's last checkpoint.
        checkpoint: with resume, the name of the checkpoint to go on from, such as epoch-000003;
            None is the newest. Newer ones are moved to `set_aside` in the run's folder.
        fall_back: with resume, go on from the newest checkpoint that is not damaged.
        overwrite: delete an existing run folder and start anew.
    """

    run: str
    exchange: str = word("flat", of=allowed.EXCHANGES)
    look_ahead: bool = True
    epochs: int = of_model(AT_LEAST_1)
    optimizer: str = "adam"
    learning_rate: float = of_model(RATE)
    weight_decay: float | None = number(None, of=RATE)
    row_learning_rate: float = of_model(RATE)
    decay: str = of_model(words=allowed.DECAYS)
    row_shrinkage: float = of_model(RATE)
    non_finite: str = word("raise", of=allowed.NON_FINITE)
    capacity: int | None = number(None, of=AT_LEAST_1)
    when_full: str = word("evict", of=allowed.WHEN_FULL)
    admit_after: int = number(1, of=AT_LEAST_1)
    time_to_live: int | None = number(None, of=AT_LEAST_1)
    embedding_scale: float = of_model(FINITE)
    loss: str = word("binary_crossentropy", of=allowed.LOSSES)
    label_centre: float | None = number(None, of=FINITE)
    label_scale: float | None = number(None, of=ABOVE_0)
    metrics: list[str] | None = None
    validate: bool = True
    patience: int | None = number(None, of=AT_LEAST_1)
    choose_by: str | None = None
    checkpoint_every: int = number(10, of=AT_LEAST_1)
    checkpoint_every_steps: int | None = number(None, of=AT_LEAST_1)
    resume: bool = False
    checkpoint: str | None = None
    fall_back: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_metric_names(self.metrics)
        self._check_comparing()
        if self.model == "dlrm":
            self._check_gradient_steps("dlrm does not adapt")
        if self.model == "factors":
            self._check_closed_form()
        elif "ratings" not in (self.loss, self.inner_loss):
            for name in ("label_centre", "label_scale"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"train: expected --model factors or --loss ratings with {flag_of(name)}, "
                        f"or --inner-loss ratings, got --model {self.model} and --loss "
                        f"{self.loss}. Leave it out."
                    )
        if self.resume and self.overwrite:
            raise ValueError("train: --resume and --overwrite exclude each other.")
        if not self.resume and (self.checkpoint is not None or self.fall_back):
            flag = "--fall-back" if self.checkpoint is None else "--checkpoint"
            raise ValueError(
                f"train: {flag} says where to go on: expected --resume with it. Add --resume, or "
                f"leave {flag} out."
            )

    def _fill_in(self) -> None:
        """What is not given is as the run has it that goes on, or else what suits the model."""
        if self.resume:
            for name, value in self._of_earlier_run().items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        super()._fill_in()

    def _of_earlier_run(self) -> dict[str, Any]:
        config = pathlib.Path(self.run) / "config.yaml"
        try:
            values = BEFORE_THEY_WERE | read_yaml(config, "the options of a run")
        except (OSError, ValueError):
            return {}  # which is told where the run is looked at
        if values.get("model") != self.model:
            return {}
        return {name: values[name] for name in names_of_model(self.model) if name in values}

    @property
    def compares_epochs(self) -> bool:
        """Whether the best epoch on the validation split is kept."""
        return self.patience is not None or self.choose_by is not None

    def _check_comparing(self) -> None:
        if not self.compares_epochs:
            return
        flag = "--choose-by" if self.patience is None else "--patience"
        if not self.validate:
            raise ValueError(
                f"train: {flag} compares epochs on the split 'valid': expected no --no-validate "
                "with it. Leave one of them out."
            )
        if self.choose_by is None:
            return
        check_metric_names([self.choose_by])
        if self.metrics and self.choose_by not in self.metrics:
            raise ValueError(
                f"train: expected --choose-by to be one of the metrics, {', '.join(self.metrics)}, "
                f"got {self.choose_by}. Add it to --metrics, or give another."
            )

    def _check_closed_form(self) -> None:
        """Raises for an option that would have no effect on factors."""
        if self.loss == "ratings":
            raise ValueError(
                "train: expected --loss bce (clicks are predicted) or mse (labels are) with "
                "--model factors, which learns from ratings with both, got ratings. Leave it out."
            )
        self._check_gradient_steps("factors adapts in closed form")

    def _check_gradient_steps(self, reason: str) -> None:
        """Raises for an option of gradient steps that would have no effect."""
        for field in dataclasses.fields(InnerOptions):
            value = getattr(self, field.name)
            if value != field.default:
                raise ValueError(
                    f"train: {flag_of(field.name)} {value} is an option of gradient steps, and "
                    f"{reason}. Leave it out, or train another --model."
                )
