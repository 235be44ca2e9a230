"""The reliability table, against a loop over rows."""

import numpy as np
import pytest

from gmeta_tf.evaluation.calibration import calibration


def test_the_table_is_the_slow_twins():
    draw = np.random.default_rng(0)
    prediction = np.concatenate([draw.random(200) ** 3, [0.0, 1.0, 0.25, 1 + 5e-7]])
    label = (draw.random(204) < 0.5) * 1.0
    found = calibration(label, prediction, 8)
    gaps = 0.0
    for place in range(8):
        own = [
            (p, y)
            for p, y in zip(prediction.clip(0, 1), label, strict=True)
            if place / 8 <= p < (place + 1) / 8 or (place == 7 and p == 1)
        ]
        assert found.rows[place] == len(own) > 0
        means = np.mean(own, axis=0)
        np.testing.assert_allclose([found.prediction[place], found.label[place]], means)
        gaps += len(own) * abs(means[0] - means[1])
    assert found.expected_error == pytest.approx(gaps / 204)
    assert found.mean_prediction == pytest.approx(prediction.mean())
    assert found.mean_label == label.mean()


def test_an_empty_bin_has_no_means_and_counts_for_nothing():
    found = calibration(np.array([1.0, 0.0]), np.array([0.9, 0.9]), 2)
    assert found.rows.tolist() == [0, 2]
    assert np.isnan([found.prediction[0], found.label[0]]).all()
    assert found.expected_error == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("prediction", "bins", "message"),
    [
        ([0.5, 3.5], 4, r"got 1 of 2 outside of \[0, 1\], the first 3\.5"),
        ([0.5, np.nan], 4, "got 1 of 2 outside"),
        ([0.5, 0.5], 0, "at least one bin and one row, got 0 and 2"),
    ],
)
def test_what_has_no_calibration(prediction, bins, message):
    with pytest.raises(ValueError, match=message):
        calibration(np.zeros(2), np.array(prediction), bins)
