"""Whether probabilities are as often right as they say: a reliability table."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gmeta_tf.evaluation.rows import FloatArray

__all__ = ["Calibration", "calibration"]

_SLACK = 1e-6  # a float32 mixture of probabilities may pass 1 by rounding


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A reliability table of M bins of equal width.

    Attributes:
        rows: how many rows each bin has, int64 `[M]`.
        prediction: the mean prediction in each bin, float64 `[M]`; NaN in an empty one.
        label: the mean label there.
        expected_error: the expected calibration error, the mean over rows of
            `|label - prediction|` of their bins.
        mean_prediction: over all rows.
        mean_label: over all rows.
    """

    rows: np.ndarray
    prediction: FloatArray
    label: FloatArray
    expected_error: float
    mean_prediction: float
    mean_label: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values, but for NaN."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in dataclasses.asdict(self).items()
        }


def calibration(label: FloatArray, prediction: FloatArray, num_bins: int) -> Calibration:
    """Compares probabilities to labels of 0 and 1, bin by bin.

    Bin m of M has the predictions in `[m / M, (m + 1) / M)`, the last one 1, too.

    Args:
        label: `[n]`, positive above 0.5.
        prediction: `[n]`.
        num_bins: M.

    Raises:
        ValueError: no row, fewer than one bin, or a prediction that is no probability.

    Example:
        >>> table = calibration(np.array([0, 1, 1, 1]), np.array([0.25, 0.25, 0.75, 1.0]), 2)
        >>> table.rows.tolist(), table.label.tolist(), table.expected_error
        ([2, 2], [0.5, 1.0], 0.1875)

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 2 and 3.
    """
    label, prediction = (np.asarray(values, np.float64) for values in (label > 0.5, prediction))
    if num_bins < 1 or not len(label):
        raise ValueError(
            f"calibration: expected at least one bin and one row, got {num_bins} and {len(label)}."
        )
    outside = ~(np.abs(prediction - 0.5) <= 0.5 + _SLACK)
    if outside.any():
        raise ValueError(
            f"calibration: expected probabilities, got {outside.sum()} of {len(label)} outside of "
            f"[0, 1], the first {prediction[outside][0]:g}. Train with --loss bce, or leave it out."
        )
    prediction = prediction.clip(0.0, 1.0)
    place = np.minimum((prediction * num_bins).astype(np.int64), num_bins - 1)
    rows = np.bincount(place, minlength=num_bins)
    means = np.full((2, num_bins), np.nan)
    for mean, values in zip(means, (prediction, label), strict=True):
        np.divide(np.bincount(place, values, num_bins), rows, out=mean, where=rows > 0)
    gaps = np.where(rows > 0, np.abs(means[1] - means[0]), 0.0)
    return Calibration(
        rows,
        means[0],
        means[1],
        float(gaps @ rows / len(label)),
        float(prediction.mean()),
        float(label.mean()),
    )
