"""What figures are drawn of, and that they can be read."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from gmeta_tf.report import figures
from gmeta_tf.report.figures import draw_figures


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every figure that is drawn, by name."""
    axes = {}
    original = figures._drawn

    def keep(canvas, name, *texts):
        made = original(canvas, name, *texts)
        axes[name] = canvas.axes[0]
        return made

    monkeypatch.setattr(figures, "_drawn", keep)
    return axes


def run_of(label="run", **curves):
    curves = {name: {"epochs": [1, 2], "values": values} for name, values in curves.items()}
    return {"label": label, "curves": curves, "evaluations": {}}


def labels_of(axis):
    return [text.get_text() for text in axis.get_ticklabels() if text.get_text()]


def test_lines_far_apart_get_a_logarithmic_axis_with_plain_numbers(drawn):
    draw_figures([run_of("a", loss=[50.0, 40.0]), run_of("b", loss=[0.7, 0.6])], "test")
    assert drawn["loss"].get_yscale() == "log"
    assert {"1", "10"} <= set(labels_of(drawn["loss"].yaxis))
    draw_figures([run_of("a", loss=[5.0, 4.0]), run_of("b", loss=[0.7, 0.6])], "test")
    assert drawn["loss"].get_yscale() == "linear"


def test_a_name_with_dollars_is_no_mathematics(drawn):
    found = draw_figures([run_of("$a_{$", loss=[1.0, 2.0]), run_of("b$", loss=[1.0, 2.0])], "test")
    assert found["loss"].png.startswith(b"\x89PNG")
    assert "$a_{$: training ends at 2" in found["loss"].alt


def test_runs_and_kinds_differ_without_colour(drawn):
    curves = {"val_auc_adapted": [0.5, 0.6], "val_auc_unadapted": [0.4, 0.5]}
    draw_figures([run_of("a", **curves), run_of("b", **curves)], "test")
    lines = drawn["validation-auc"].get_lines()
    looks = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor()) for line in lines
    }
    assert len({one[:2] for one in looks}) == 2
    assert sum(face == "white" for _, _, face in looks) == 2
    assert len(looks) == 4


def test_values_that_are_no_numbers_leave_gaps_or_no_figure(drawn):
    found = draw_figures([run_of(loss=[float("nan"), 0.5], val_loss=[None, float("inf")])], "test")
    (line,) = drawn["loss"].get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [np.nan, 0.5])
    assert "training ends at 0.5" in found["loss"].alt
    assert draw_figures([run_of(loss=[None, None])], "test") == {}


def test_pictures_are_large_enough_and_not_empty():
    png = draw_figures([run_of(loss=[0.9, 0.5])], "test")["loss"].png
    pixels = imread(io.BytesIO(png))[..., :3]
    assert pixels.shape[1] > 600
    assert 0.001 < (pixels.mean(axis=2) < 0.5).mean() < 0.3
