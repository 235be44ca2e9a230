"""The quick start's last words: a small table, and the same as one JSON line.

python -m gmeta_tf.cli.quickstart_report --run RUN --saved-model RUN/saved_model
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import sys
from typing import Any

from gmeta_tf.evaluation.json_report import json_report

__all__ = ["result_of_run"]


def result_of_run(
    run: pathlib.Path, saved_model: pathlib.Path, movielens: str = "download"
) -> dict[str, Any]:
    """What a run came to, read from what its steps wrote.

    Args:
        run: its folder.
        saved_model: its export.
        movielens: where the data was, as `gmeta-tf prepare` was told.

    Raises:
        FileNotFoundError: the run was not trained, evaluated or exported.
    """
    metrics = json.loads((run / "metrics.json").read_text())
    evaluated = json.loads((run / "evaluation-test.json").read_text())
    if not (saved_model / "saved_model.pb").is_file():
        raise FileNotFoundError(f"{saved_model} is not a SavedModel. Run `gmeta-tf export` first.")
    names = ("auc_adapted", "auc_unadapted", "auc_baseline", "tasks")
    page = run / "report.html"
    films = "" if movielens == "download" else f" --movielens {shlex.quote(movielens)}"
    return {
        **{name: evaluated[name] for name in names},
        "samples_per_second": metrics["samples_per_second"],
        "run": str(run),
        "saved_model": str(saved_model),
        "play": f"{_command()} play --saved-model {shlex.quote(str(saved_model))}{films}",
        **({"report": str(page)} if page.is_file() else {}),
    }


def _command() -> str:
    """The command as it can be typed in the current folder, whether or not .venv is activated."""
    beside = pathlib.Path(sys.executable).with_name("gmeta-tf")
    is_near = beside.is_file() and beside.is_relative_to(pathlib.Path.cwd())
    return shlex.quote(str(beside.relative_to(pathlib.Path.cwd()))) if is_near else "gmeta-tf"


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    return "\n".join(
        [
            f"pooled AUC of {result['tasks']} cold users (like = rating of 4 or 5)",
            f"  adapted on 10 ratings           {result['auc_adapted']:.4f}",
            f"  unadapted                       {result['auc_unadapted']:.4f}",
            f"  baseline: item rate + offset    {result['auc_baseline']:.4f}",
            f"training speed                    {result['samples_per_second']:,.0f} samples/s",
            f"model                             {result['saved_model']}",
            "",
            "next:",
            *(
                [f"  look at the run, in a browser: {result['report']}"]
                if "report" in result
                else ()
            ),
            "  be a cold user yourself:",
            f"    {result['play']}",
            "  your own data: docs/data.md, after `source .venv/bin/activate`",
        ]
    )


def main() -> None:
    """Prints the table and, last, the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--saved-model", type=pathlib.Path, required=True)
    parser.add_argument("--movielens", default="download")
    arguments = parser.parse_args()
    result = result_of_run(arguments.run, arguments.saved_model, arguments.movielens)
    print(table(result))
    print(json_report(result))


if __name__ == "__main__":
    main()
