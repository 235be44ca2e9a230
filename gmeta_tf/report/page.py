"""Results and figures as one HTML page, which needs nothing beside it."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gmeta_tf.report.figures import Figure

__all__ = ["report_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 2px solid #1a1a1a; }
p, figcaption { max-width: 46rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
figure { margin: 0; }
figcaption { font-weight: 600; }
img { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid #bbb; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child, table.words td, table.words th { text-align: left; }
table.words td { white-space: normal; overflow-wrap: anywhere; }
tr.bold td { font-weight: 700; }
.note { color: #444; font-size: .9rem; }
summary { cursor: pointer; font-weight: 600; }
@media print { details > * { display: block; } }
""".strip()


_MEANING = (
    "Adapted: after a task's support rows went through the inner loop. Unadapted: what the model "
    "predicts of a task of which nothing is known. Baseline: counting, without a model. AUC is the "
    "chance that a positive row is ranked above a negative one: 0.5 by guessing, 1 at best; auc is "
    "over all rows, task_auc the mean of the tasks. Of log_loss, rmse and mae less is better."
)


def report_page(
    runs: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Figure],
    *,
    split: str,
    versions: Mapping[str, str],
) -> str:
    """The page.

    Args:
        runs: one run or two, as `draw_figures` takes them.
        figures: what `draw_figures` gave.
        split: the split whose evaluation is shown.
        versions: package -> its version, where the report is made.

    Returns:
        HTML without a reference to anything outside of itself; whatever comes from data is escaped.
    """
    names = " against ".join(run["run"] for run in runs)
    validation = [name for name in figures if name.startswith("validation-")]
    body = [
        f"<h1>{html.escape(names)}</h1>",
        _note(_MEANING),
        _overview(runs, split),
        "<h2>Learning curves</h2>",
        _figures(figures, ["loss", *validation], "No epoch has ended yet."),
        "<h2>Evaluation</h2>",
        *(_evaluation(run, runs, split) for run in runs),
        _figures(figures, ["evaluation"], ""),
        "<h2>Task by task</h2>",
        _figures(
            figures,
            ["task-auc", "support-rows", "inner-steps", "calibration", "activity", "segments"],
            "Not measured: needs a checkpoint, the records, and `gmeta-tf report` without "
            "--no-measure.",
        ),
        *(_tasks(run, runs) for run in runs),
        *(_more_tables(run, runs, split) for run in runs),
        "<h2>Where a step's time goes</h2>",
        _figures(figures, ["step-time"], "No epoch has ended yet."),
        *(_speed(run, runs) for run in runs),
        "<h2>Tables</h2>",
        *(_tables(run, runs) for run in runs),
        *(_traffic(run, runs) for run in runs),
        _figures(figures, ["tables"], ""),
        "<h2>Data</h2>",
        *(_data(run, runs) for run in runs),
        "<h2>Options</h2>",
        _options(runs),
        "<h2>Versions</h2>",
        _table(["package", "version"], [[*pair] for pair in versions.items()], words=True),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(names)}: gmeta_tf report</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *(part for part in body if part),
            "</body>",
            "</html>\n",
        ]
    )


def _overview(runs: Sequence[Mapping[str, Any]], split: str) -> str:
    """The first lines: what was trained, and what it came to."""
    rows = [
        ["model", *(run["config"].get("model") for run in runs)],
        ["ranks", *(run["ranks"] for run in runs)],
        ["epochs", *(run["metrics"].get("epochs") for run in runs)],
        ["samples/s", *(_count(run["metrics"].get("samples_per_second")) for run in runs)],
    ]
    tables = [run["evaluations"].get(split, {}).get("table", {}) for run in runs]
    for name in list(dict.fromkeys(name for table in tables for name in table))[:1]:
        for kind in ("adapted", "unadapted", "baseline"):
            rows.append([f"{name}, {kind}", *(table.get(name, {}).get(kind) for table in tables)])
    return _table(["", *(run["label"] for run in runs)], rows)


def _evaluation(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], split: str) -> str:
    evaluation = run["evaluations"].get(split)
    if evaluation is None:
        return _note(
            f"{run['run']} has no evaluation on the split {split!r}: run "
            f"`gmeta-tf evaluate --run {run['run']} --split {split}`."
        )
    report = evaluation["report"]
    kinds = ["adapted", "unadapted", "baseline"]
    head, intervals = ["metric", *kinds], report.get("intervals")
    rows = [[name, *(cells[one] for one in kinds)] for name, cells in evaluation["table"].items()]
    if isinstance(intervals, dict):
        head += ["adapted, 95 %", "adapted - unadapted, 95 %"]
        for row in rows:
            row += [
                _interval(intervals.get(f"{row[0]}_{one}"))
                for one in ("adapted", "adapted_less_unadapted")
            ]
    order = "in time order" if report.get("in_time_order") else "drawn at random"
    field = report.get("baseline")
    told = (
        f"{_count(report.get('tasks'))} tasks that training has not seen, "
        f"{_count(report.get('samples'))} query rows, {report.get('support')} support rows each, "
        f"{order}. Baseline: "
        + (f"the rate of each {field}" if field else "the mean of all labels")
        + " + the task's offset."
    )
    if report.get("chosen"):
        told += f" {report.get('checkpoint')}: {report['chosen']}."
    return _of(run, runs) + _table(head, rows) + _note(told)


def _tasks(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    measured = run.get("measured") or {}
    parts = []
    curve = measured.get("support_curve")
    if curve:
        head = ["support rows", *curve["sizes"]]
        parts.append(_table(head, [[curve["metric"], *curve["values"]]]))
    tasks = measured.get("task_auc")
    if tasks and tasks["tasks"]:
        parts.append(
            _note(
                f"Of {tasks['tasks']:,} tasks with both classes, adapting made the AUC of "
                f"{tasks['better']:.0%} better and of {tasks['worse']:.0%} worse."
            )
        )
    return _of(run, runs) + "".join(parts) if parts else ""


def _more_tables(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], split: str) -> str:
    """Whatever else the evaluation has in lists of like objects, such as segments."""
    report = run["evaluations"].get(split, {}).get("report", {})
    parts = []
    for name, value in report.items():
        rows = value if isinstance(value, list) else []
        if rows and all(isinstance(row, dict) for row in rows):
            head = list(dict.fromkeys(key for row in rows for key in row))
            # A segment without a value is of all other rows.
            cells = [
                [
                    _or(row.get(key), "all others") if key == "value" else row.get(key)
                    for key in head
                ]
                for row in rows
            ]
            parts.append(f"<h3>{html.escape(name.replace('_', ' '))}</h3>" + _table(head, cells))
    return _of(run, runs) + "".join(parts) if parts else ""


def _speed(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    waits = [v for v in run["curves"].get("input_wait", {}).get("values", []) if math.isfinite(v)]
    if not waits:
        return ""
    told = (
        f"In the last epoch {waits[-1]:.1%} of the training time was waiting for input, and "
        f"{1 - waits[-1]:.1%} computing and exchanging. Above a few per cent the input is what "
        "bounds the speed. The first epoch has the tracing of the graph in it."
    )
    return _of(run, runs) + _note(told)


def _tables(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    tables = (run.get("measured") or {}).get("tables")
    if not tables:
        return _note(f"{run['run']}: not measured.")
    head = ["table", "rows", "width", "bytes of rows and slots", "largest share of a rank"]
    rows = [
        [one["name"], one["rows"], one["width"], one["bytes"], one["rank_bytes"]] for one in tables
    ]
    return _of(run, runs) + _table(head, [[_or(cell, "grows") for cell in row] for row in rows])


def _traffic(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """What a step of several ranks sends; nothing of one rank, which exchanges nothing."""
    traffic = (run.get("measured") or {}).get("traffic")
    if not traffic:
        return ""
    replicated = set((traffic["replication"] or {}).get("tables", ()))
    head = ["table", "is", "distinct keys of a rank's step", "of other ranks", "bytes a rank sends"]
    rows = [
        [
            one["table"],
            "replicated" if one["table"] in replicated else "sharded",
            round(one["distinct_keys"]),
            round(one["remote_keys"]),
            round(one["sent_bytes"]["mean"]),
        ]
        for one in traffic["tables"]
    ]
    told = (
        f"What a step of {traffic['world_size']} ranks sends for keys, rows and gradients"
        f"{', as if all tables were sharded' if replicated else ''}. Rank "
        f"{traffic['busiest_rank']} is the busiest: it sends "
        f"{_count(traffic['busiest_sent_bytes'])} bytes and gets "
        f"{_count(traffic['busiest_received_bytes'])}."
    )
    if traffic["allreduce_bytes"] is not None:
        told += f" For the dense weights a rank sends {_count(traffic['allreduce_bytes'])} bytes."
    told += f" Distinct keys: {traffic['requests_from']}."
    return _of(run, runs) + _table(head, rows) + _note(told)


def _data(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    data = run["data"]
    if data is None:
        return _note(f"{run['run']}: its records are not here.")
    head = ["split", "tasks", "episodes", "rows"]
    splits = [[name, *(one[count] for count in head[1:])] for name, one in data["splits"].items()]
    fields = [
        [one.get("name"), one.get("kind", "categorical"), one.get("table") or one.get("name")]
        for one in data["schema"].get("fields", [])
    ]
    return (
        _of(run, runs)
        + _note(data["records"])
        + _table(head, splits)
        + _table(["field", "kind", "table"], fields, words=True)
    )


def _options(runs: Sequence[Mapping[str, Any]]) -> str:
    """The options; with two runs those that differ come first, in bold."""
    names = list(dict.fromkeys(name for run in runs for name in run["config"]))
    cells = {name: [str(run["config"].get(name)) for run in runs] for name in names}
    differ = [name for name in names if len(set(cells[name])) > 1]
    rows = [[name, *cells[name]] for name in [*differ, *(n for n in names if n not in differ)]]
    head = ["option", *(run["label"] for run in runs)]
    shown = _table(head, rows, words=True, num_bold=len(differ))
    return f"<details><summary>{len(names)} options</summary>{shown}</details>"


def _figures(figures: Mapping[str, Figure], names: Sequence[str], otherwise: str) -> str:
    there = [figures[name] for name in names if name in figures]
    if not there:
        return _note(otherwise) if otherwise else ""
    return f'<div class="figures">{"".join(_figure(one) for one in there)}</div>'


def _figure(figure: Figure) -> str:
    picture = base64.b64encode(figure.png).decode("ascii")
    return (
        f"<figure><figcaption>{html.escape(figure.title)}</figcaption>"
        f'<img src="data:image/png;base64,{picture}" alt="{html.escape(figure.alt)}"></figure>'
    )


def _table(
    head: Sequence[Any], rows: Sequence[Sequence[Any]], *, words: bool = False, num_bold: int = 0
) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    top = "".join(f'<th scope="col">{_cell(name)}</th>' for name in head)
    bold = ' class="bold"'
    lines = [
        f"<tr{bold if place < num_bold else ''}>"
        + "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        + "</tr>"
        for place, row in enumerate(rows)
    ]
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    """A number as people read it, everything else as escaped text."""
    if value is None:
        return "–"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "none"
        # Counts that are means over draws.
        return f"{value:,.0f}" if value >= 2 and value.is_integer() else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return html.escape(str(value))


def _of(run: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    return "" if len(runs) == 1 else f"<h3>{html.escape(run['label'])}</h3>"


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _interval(bounds: Any) -> str | None:
    """Two bounds in words; None where there are none."""
    if not isinstance(bounds, list) or len(bounds) != 2:
        return None
    return f"{_cell(bounds[0])} to {_cell(bounds[1])}"


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _or(value: Any, otherwise: str) -> Any:
    return otherwise if value is None else value
