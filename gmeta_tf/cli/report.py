"""`gmeta-tf report`: a run, or two side by side, as one HTML page."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pathlib
import platform

from gmeta_tf.cli.first_checks import check_report, report_path
from gmeta_tf.cli.next_step import tell_next
from gmeta_tf.cli.options import ReportOptions
from gmeta_tf.cli.run_files import read_config
from gmeta_tf.evaluation.json_report import without_nan
from gmeta_tf.report.run_results import run_results

__all__ = ["report"]

_PACKAGES = ("gmeta_tf", "tensorflow", "tensorflow-cpu", "keras", "horovod", "numpy", "matplotlib")


def report(options: ReportOptions) -> None:
    """`gmeta-tf report`, in one process.

    Raises:
        FileNotFoundError: no run folder; to measure, no checkpoint or records.
        ValueError: a file of the run that cannot be read, or, to measure, no such split.
        ImportError: Matplotlib is not installed.
        OSError: the page cannot be written.
    """
    check_report(options)
    folders = [one for one in (options.run, options.against) if one is not None]
    configs = [dataclasses.asdict(read_config(one)) for one in folders]
    # Everything is read before anything is measured, which takes longer.
    runs = [
        run_results(pathlib.Path(one), config) for one, config in zip(folders, configs, strict=True)
    ]
    for run, label in zip(runs, _labels(folders), strict=True):
        run["label"] = label
        run["measured"] = run["evaluations"].get(options.split, {}).get("details", {})
    if options.measure:
        from gmeta_tf.cli.measured_run import measured_run  # imports TensorFlow

        for place, run in enumerate(runs):
            chosen = options if place == 0 else _of_other(options)
            report_of_split = run["evaluations"].get(options.split, {}).get("report", {})
            # What was evaluated counts: it may be of several draws.
            run["measured"] = measured_run(chosen, report_of_split, run["ranks"]) | run["measured"]
    versions = _versions()
    # Matplotlib is no dependency of the commands beside this one.
    from gmeta_tf.report.figures import draw_figures
    from gmeta_tf.report.page import report_page
    from gmeta_tf.report.written import write_report

    figures = draw_figures(runs, options.split)
    page = report_page(runs, figures, split=options.split, versions=versions)
    results = {
        "split": options.split,
        "runs": without_nan(runs),
        "figures": {name: {"title": one.title, "alt": one.alt} for name, one in figures.items()},
        "versions": versions,
    }
    path, *beside = write_report(report_path(options), page, results, figures)
    print(f"{path}: {len(figures)} figures; beside it {beside[0].name} and the figures as PNG")
    tell_next("xdg-open", path)


def _of_other(options: ReportOptions) -> ReportOptions:
    """The options of the run beside the first: its own records and newest checkpoint."""
    run = options.against or options.run
    return dataclasses.replace(options, run=run, records=None, checkpoint=None)


def _labels(folders: list[str]) -> list[str]:
    """The folders' names, or the whole paths where those are the same."""
    names = [pathlib.Path(one).absolute().name for one in folders]
    return names if len(set(names)) == len(names) else folders


def _versions() -> dict[str, str]:
    """What is installed where the report is made."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra, or another build of TensorFlow
    return found
