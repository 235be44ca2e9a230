"""The results of one run or two as figures: PNG, with a text for those who cannot see it.

Adapted, unadapted and baseline differ by line and marker as well as by colour, and the second run
has hollow markers and thin lines, so that figures can be read in grey.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator, NullFormatter

__all__ = ["Figure", "draw_figures"]

_INCHES = (5.6, 3.5)
_DOTS_PER_INCH = 140
# Of Okabe and Ito's palette, which the colour-blind can tell apart; from dark to light in grey.
_STYLES: dict[str, dict[str, Any]] = {
    "adapted": {"color": "#004a80", "linestyle": "-", "marker": "o"},
    "unadapted": {"color": "#b84a00", "linestyle": "--", "marker": "s"},
    "baseline": {"color": "#6b6b6b", "linestyle": ":", "marker": "^"},
}
_HATCHES = {"adapted": "", "unadapted": "///", "baseline": "..."}
_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # a run's name may hold $
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
    "legend.fontsize": 10,
}


class Figure(NamedTuple):
    """A figure.

    Attributes:
        name: for its file.
        title: a line above it.
        alt: what it shows, with the numbers that matter.
        png: the picture.
    """

    name: str
    title: str
    alt: str
    png: bytes


def draw_figures(runs: Sequence[Mapping[str, Any]], split: str) -> dict[str, Figure]:
    """Draws what there is to draw of one run, or of two in the same axes.

    Args:
        runs: what `run_results` gave, each with a `label` and with what was `measured`, by
            `evaluate` or for the report.
        split: the split whose evaluation is shown.

    Returns:
        Name -> figure; those without anything to show are left out.
    """
    makers: dict[str, Callable[[], Figure | None]] = {
        "loss": lambda: _loss(runs),
        **{
            f"validation-{name}": lambda name=name: _validation(runs, name)  # type: ignore[misc]
            for name in _validated(runs)
        },
        "evaluation": lambda: _evaluation(runs, split),
        "task-auc": lambda: _task_auc(runs),
        "support-rows": lambda: _sizes(runs, "support_curve", "support rows"),
        "inner-steps": lambda: _sizes(runs, "inner_steps_curve", "inner steps"),
        "activity": lambda: _segments(runs, "activity"),
        "segments": lambda: _segments(runs, "segments"),
        "calibration": lambda: _calibration(runs),
        "step-time": lambda: _step_time(runs),
        "tables": lambda: _tables(runs),
    }
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A name in a script that the font lacks gets boxes; the page has it in letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        made = {name: make() for name, make in makers.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def _loss(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    lines = _Lines("epoch", "loss")
    for index, run in enumerate(runs):
        for name, label, style in (
            ("loss", "training", "adapted"),
            ("val_loss", "validation", "unadapted"),
        ):
            if name in run["curves"]:
                curve = run["curves"][name]
                lines.add(curve["epochs"], curve["values"], _named(runs, run, label), style, index)
    lines.spread()
    return lines.figure("loss", "Loss by epoch", "Loss of the query rows after each epoch")


def _validated(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics of which a run has a validation curve."""
    names = [name for run in runs for name in run["curves"]]
    found = [n[4:-8] for n in names if n.startswith("val_") and n.endswith("_adapted")]
    return list(dict.fromkeys(found))


def _validation(runs: Sequence[Mapping[str, Any]], name: str) -> Figure | None:
    lines = _Lines("epoch", f"validation {name}")
    for index, run in enumerate(runs):
        for kind in ("adapted", "unadapted"):
            curve = run["curves"].get(f"val_{name}_{kind}")
            if curve is not None:
                lines.add(curve["epochs"], curve["values"], _named(runs, run, kind), kind, index)
    return lines.figure(
        f"validation-{name.replace('@', '-')}",
        f"Validation {name} by epoch",
        f"{name} of the validation tasks after each epoch",
    )


def _evaluation(runs: Sequence[Mapping[str, Any]], split: str) -> Figure | None:
    """Bars side by side: each metric's adapted, unadapted and baseline value."""
    tables = [
        (run, run["evaluations"][split]["table"]) for run in runs if split in run["evaluations"]
    ]
    names = list(dict.fromkeys(name for _, table in tables for name in table))
    if not names:
        return None
    canvas, axes = _canvas()
    bars = [(run, table, kind) for run, table in tables for kind in _STYLES]
    width = 0.82 / len(bars)
    told = []
    for place, (run, table, kind) in enumerate(bars):
        heights = [_float(table.get(name, {}).get(kind)) for name in names]
        if np.isnan(heights).all():
            continue
        label = _named(runs, run, kind)
        drawn = axes.bar(
            np.arange(len(names)) + (place - (len(bars) - 1) / 2) * width,
            heights,
            width,
            label=label,
            color=_STYLES[kind]["color"],
            alpha=1.0 if run is runs[0] else 0.55,
            hatch=_HATCHES[kind],
            edgecolor="white",
        )
        texts = ["" if math.isnan(height) else f"{height:.3f}" for height in heights]
        axes.bar_label(drawn, texts, fontsize=8.5 if len(bars) <= 3 else 7, rotation=90, padding=3)
        told += [f"{n} {label} {h:.4f}" for n, h in zip(names, heights) if not math.isnan(h)]
    axes.set_xticks(np.arange(len(names)), names)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.3)  # room for the numbers above the bars
    _legend(axes)
    return _drawn(
        canvas,
        "evaluation",
        f"Evaluation on the split {split!r}",
        f"Bars of each metric on the split {split!r}: {'; '.join(told)}.",
    )


def _task_auc(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The share of tasks at or below each AUC: no bins to choose, and four curves stay readable."""
    found = [(run, one) for run in runs if (one := _measured(run, "task_auc")) and one["tasks"]]
    if not found:
        return None
    lines = _Lines("AUC within a task", "share of tasks at or below")
    for run, one in found:
        index = list(runs).index(run)
        for kind in ("adapted", "unadapted"):
            values = np.sort(one[kind])
            shares = np.arange(1, len(values) + 1) / len(values)
            lines.add(values, shares, _named(runs, run, kind), kind, index, steps=True, tell=False)
    told = [
        f"{_named(runs, run, 'median adapted')} {np.median(one['adapted']):.3f}, unadapted "
        f"{np.median(one['unadapted']):.3f}, of {one['tasks']} tasks"
        for run, one in found
    ]
    return lines.figure(
        "task-auc",
        "AUC within each task",
        f"Distribution of the AUC within a task: {'; '.join(told)}",
    )


def _sizes(runs: Sequence[Mapping[str, Any]], name: str, of: str) -> Figure | None:
    found = [(run, one) for run in runs if (one := _measured(run, name))]
    if not found:
        return None
    metric = found[0][1]["metric"]
    lines = _Lines(f"{of} of a task", metric)
    for run, one in found:
        label = _named(runs, run, "adapted")
        lines.add(one["sizes"], one["values"], label, "adapted", list(runs).index(run))
    title = f"{metric} over the number of {of}"
    return lines.figure(of.replace(" ", "-"), title, f"{title}, on the same query rows")


def _segments(runs: Sequence[Mapping[str, Any]], name: str) -> Figure | None:
    """The first run's segments: for each value of the field two markers on a line."""
    found = _measured(runs[0], name)
    if not found or not found["values"]:
        return None
    names = [_short(value, 22) for value in found["values"]]
    lines = _Lines(found["metric"], "")
    places = np.arange(len(names))[::-1]
    for kind in ("adapted", "unadapted"):
        style = _STYLES[kind] | {"linestyle": "none"}
        figures = [_float(value) for value in found[kind]]
        lines.axes.plot(figures, places, label=kind, markersize=7, **style)
    lines.axes.set_yticks(places, names)
    title = f"{found['metric']} by {found['field']}"
    told = "; ".join(
        f"{value} {'none' if number is None else format(number, '.3f')}"
        for value, number in zip(found["values"], found["adapted"], strict=True)
    )
    return lines.figure(name, title, f"{title}, adapted: {told}")


def _calibration(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    found = [(run, one) for run in runs if (one := _measured(run, "calibration"))]
    if not found:
        return None
    lines = _Lines("mean probability predicted", "share of positive rows")
    lines.axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, zorder=1)
    for run, one in found:
        for kind in ("adapted", "unadapted"):
            label = f"{_named(runs, run, kind)} (error {one[kind]['error']:.3f})"
            values = one[kind]["predicted"], one[kind]["observed"]
            lines.add(*values, label, kind, list(runs).index(run), tell=False)
    told = "; ".join(
        f"{_named(runs, run, kind)} {one[kind]['error']:.3f}"
        for run, one in found
        for kind in ("adapted", "unadapted")
    )
    return lines.figure(
        "calibration",
        "Calibration",
        "Share of positive rows over the predicted probability, which are equal on the diagonal; "
        f"expected calibration error {told}",
    )


def _step_time(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    lines = _Lines("epoch", "share of a step, %")
    for index, run in enumerate(runs):
        curve = run["curves"].get("input_wait")
        if curve is not None:
            percent = [100 * value for value in curve["values"]]
            label = _named(runs, run, "waiting for input")
            lines.add(curve["epochs"], percent, label, "unadapted", index)
    lines.axes.set_ylim(bottom=0)
    return lines.figure(
        "step-time",
        "The share of a step that waits for input",
        "Share of the training time in which steps waited for data, in per cent; the rest is "
        "computing and the exchange between ranks",
    )


def _tables(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The memory of the first run's tables, as bars from the largest down."""
    sizes = [one for one in _measured(runs[0], "tables") or () if one["bytes"]]
    if not sizes:
        return None
    largest = sorted(sizes, key=lambda one: one["bytes"])[-12:]
    canvas, axes = _canvas()
    names = [_short(one["name"], 24) for one in largest]
    places = np.arange(len(names))
    values = [one["bytes"] / 1e6 for one in largest]
    axes.barh(places, values, color=_STYLES["adapted"]["color"])
    axes.set_yticks(places, names)
    axes.set_xlabel("rows and slots, MB")
    axes.grid(axis="y", visible=False)
    told = "; ".join(f"{one['name']} {one['bytes'] / 1e6:.3g} MB" for one in reversed(largest))
    return _drawn(canvas, "tables", "Memory of the largest tables", f"Bars of memory: {told}.")


class _Lines:
    """Axes with lines, and what they show in words."""

    def __init__(self, x: str, y: str) -> None:
        self.canvas, self.axes = _canvas()
        self.axes.set_xlabel(x)
        self.axes.set_ylabel(y)
        if x == "epoch" or x.endswith(" of a task"):
            self.axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        self._x = x
        self._told: list[str] = []

    def add(
        self,
        x: Any,
        y: Any,
        label: str,
        kind: str,
        index: int,
        *,
        steps: bool = False,
        tell: bool = True,
    ) -> None:
        """Adds a line of the `index`-th run; values that are not finite leave a gap.

        With `tell` the text says where the line ends.
        """
        y = np.array([_float(value) for value in y])
        if not np.isfinite(y).any():
            return
        style = dict(_STYLES[kind])
        style |= {"linewidth": 2.0 - 0.8 * index, "markersize": 4.5}
        if index:
            style["markerfacecolor"] = "white"
        if steps:
            # A marker for each task would be a blot.
            style |= {"drawstyle": "steps-post", "markevery": max(len(y) // 8, 1)}
        self.axes.plot(x, y, label=label, **style)
        if tell:
            last = np.flatnonzero(np.isfinite(y))[-1]
            self._told.append(f"{label} ends at {y[last]:.4g} ({self._x} {x[last]:.4g})")

    def spread(self) -> None:
        """A logarithmic axis where lines are far apart, as the losses of two models may be."""
        drawn = [np.asarray(line.get_ydata(), float) for line in self.axes.get_lines()]
        values = np.concatenate([*drawn, []])
        values = values[np.isfinite(values)]
        if len(values) and values.min() > 0 and values.max() > 10 * values.min():
            self.axes.set_yscale("log")
            # The usual ones are mathematics, which names of runs must not be.
            self.axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            self.axes.yaxis.set_minor_formatter(NullFormatter())

    def figure(self, name: str, title: str, alt: str) -> Figure | None:
        """The figure; None without a line that has a label."""
        if not self.axes.get_legend_handles_labels()[0]:
            return None
        _legend(self.axes)
        told = f": {'; '.join(self._told)}" if self._told else ""
        return _drawn(self.canvas, name, title, f"{alt}{told}.")


def _canvas() -> tuple[Canvas, Axes]:
    canvas = Canvas(figsize=_INCHES, layout="constrained")
    return canvas, canvas.subplots()


def _legend(axes: Axes) -> None:
    """Below the axes, where it hides nothing."""
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)


def _drawn(canvas: Canvas, name: str, title: str, alt: str) -> Figure:
    png = io.BytesIO()
    canvas.savefig(png, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return Figure(name, title, alt, png.getvalue())


def _named(runs: Sequence[Mapping[str, Any]], run: Mapping[str, Any], what: str) -> str:
    """With two runs, which of them it is of."""
    return what if len(runs) == 1 else f"{_short(run['label'], 18)}: {what}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _measured(run: Mapping[str, Any], name: str) -> Any:
    return (run.get("measured") or {}).get(name)


def _float(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else float(value)
