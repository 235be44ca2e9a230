"""SIGKILL of a rank at random moments of `gmeta-tf launch -- gmeta-tf train`: what is lost.

python -m benchmarks.restarts                   # 20 runs of 2 ranks, on a made log
python -m benchmarks.restarts --quick           # one

Each run has one of its ranks killed once, at a moment drawn over the time that an undisturbed run
takes, and is started again by the launcher. It prints a line a run, and one JSON line last: the
runs that finished, and how far their AUC is from the undisturbed run's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import gmeta_tf as gm
from benchmarks.processes import descendants
from gmeta_tf.saving.checkpoints.checkpoint import latest_checkpoint
from gmeta_tf.saving.checkpoints.manifest import read_manifest

__all__ = ["killed", "main", "prepared", "train_words"]

_LIMIT_SECONDS = 300.0
_STEP_TIMEOUT = 60
_SCRIPTS = pathlib.Path(sys.executable).parent
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), "1"),
    "TF_NUM_INTEROP_THREADS": "1",
    "HOROVOD_CYCLE_TIME": "2",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
}


def prepared(folder: pathlib.Path, num_tasks: int) -> pathlib.Path:
    """Records of a made log whose labels follow from its users and items.

    Args:
        folder: where to make them.
        num_tasks: users, each with 24 rows.
    """
    draw = np.random.default_rng(0)
    taste, kind = draw.normal(size=[num_tasks, 3]), draw.normal(size=[60, 3])
    lines = ["user,item,group,label"]
    for user in range(num_tasks):
        for item in draw.integers(0, 60, 24):
            likes = taste[user] @ kind[item] + draw.normal() > 0
            lines.append(f"u{user},i{item},g{item % 5},{int(likes)}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    schema = gm.Schema((gm.Field("item"), gm.Field("group")), label="label", task="user")
    gm.prepare(
        gm.files_source([str(folder / "log.csv")]),
        schema,
        folder / "records",
        split=gm.Split(test_fraction=0.3),
    )
    return folder / "records"


def train_words(records: pathlib.Path, run: pathlib.Path, epochs: int) -> list[str]:
    """The command of one run, which checkpoints every five steps."""
    words = ["train", "--records", str(records), "--run", str(run), "--epochs", str(epochs)]
    words += ["--model", "melu", "--width", "8", "--hidden", "16", "--tasks", "8"]
    words += ["--support", "10", "--query", "14", "--checkpoint-every-steps", "5"]
    return [str(_SCRIPTS / "gmeta-tf"), *words]


def killed(
    command: Sequence[str],
    *,
    rank: int | None,
    seconds: float = 0.0,
    once_saved: bool = False,
    ranks: int = 2,
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """One run under the launcher, of which a rank is killed once.

    Args:
        command: what each rank runs.
        rank: which; None kills none.
        seconds: from the moment at which the ranks have begun to step.
        once_saved: from the first checkpoint instead.
        ranks: W.
        flags: of `gmeta-tf launch`, further ones.

    Returns:
        `status` (None: it did not end in five minutes), `seconds`, `was_killed`, and `said`.
    """
    words = [str(_SCRIPTS / "gmeta-tf"), "launch", "-np", str(ranks), "--no-check"]
    words += ["--max-restarts", "2", "--step-timeout", str(_STEP_TIMEOUT), *flags]
    begin = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        launcher = subprocess.Popen(
            [*words, "--", *command],
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            was_killed = rank is not None and _kill(
                launcher, rank, seconds, "saved_steps" if once_saved else "steps"
            )
            status: int | None = launcher.wait(_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            launcher.send_signal(signal.SIGINT)
            launcher.wait()
            status = None
        output.seek(0)
        return {
            "status": status,
            "seconds": time.monotonic() - begin,
            "was_killed": was_killed,
            "said": output.read(),
        }


def _kill(launcher: subprocess.Popen[Any], rank: int, seconds: float, since: str) -> bool:
    """Kills a rank's training some seconds after it has made or saved its first step."""
    while launcher.poll() is None:
        for process in descendants(launcher.pid):
            environment = _variables(process)
            beat = environment.get("GMETA_HEARTBEAT")
            if environment.get("HOROVOD_RANK") == str(rank) and _has(since, beat):
                time.sleep(seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    return True
                return False
        time.sleep(0.02)
    return False


def _has(what: str, beat: str | None) -> bool:
    try:
        return beat is not None and json.loads(pathlib.Path(beat).read_text())[what] > 0
    except (OSError, ValueError):
        return False


def _variables(process: int) -> dict[str, str]:
    try:
        text = pathlib.Path(f"/proc/{process}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def _auc(run: pathlib.Path) -> float:
    words = [str(_SCRIPTS / "gmeta-tf"), "evaluate", "--run", str(run), "--json"]
    done = subprocess.run(
        words,
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1])["auc_adapted"])


def _epochs(run: pathlib.Path) -> int:
    last = latest_checkpoint(run / "checkpoint")
    return 0 if last is None else int(read_manifest(last)["details"]["epoch"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it; see the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="one run of a small log")
    options = parser.parse_args(arguments)
    if options.quick:
        options.runs, options.tasks, options.epochs = 1, 300, 3
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-restarts-") as work:
        folder = pathlib.Path(work)
        records = prepared(folder, options.tasks)
        command = train_words(records, folder / "undisturbed", options.epochs)
        undisturbed = killed(command, rank=None, ranks=options.ranks)
        if undisturbed["status"] != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{undisturbed['said'][-3000:]}")
        reference, stepping = _auc(folder / "undisturbed"), _stepping_seconds(undisturbed["said"])
        print(f"undisturbed: AUC {reference:.4f}, {stepping:.1f} s of steps", flush=True)
        results = []
        for index in range(options.runs):
            run = folder / f"run-{index}"
            rank, seconds = draw.randrange(options.ranks), draw.uniform(0, stepping)
            one = killed(
                train_words(records, run, options.epochs),
                rank=rank,
                seconds=seconds,
                ranks=options.ranks,
            )
            finished = one["status"] == 0 and _epochs(run) == options.epochs
            difference = abs(_auc(run) - reference) if finished else None
            lost = re.search(r"lost: (\d+) step", one["said"])
            results.append(
                {
                    "rank": rank,
                    "after_seconds": seconds,
                    "finished": finished,
                    "hung": one["status"] is None,
                    "was_killed": one["was_killed"],
                    "seconds": one["seconds"],
                    "lost_steps": int(lost[1]) if lost else 0,
                    "auc_difference": difference,
                }
            )
            print(json.dumps(results[-1]), flush=True)
            if not finished:
                print(one["said"][-3000:])
    differences = [one["auc_difference"] for one in results if one["finished"]]
    print(
        json.dumps(
            {
                "benchmark": "restarts",
                "ranks": options.ranks,
                "runs": options.runs,
                "killed": sum(one["was_killed"] for one in results),
                "finished": sum(one["finished"] for one in results),
                "hung": sum(one["hung"] for one in results),
                "auc_undisturbed": reference,
                "largest_auc_difference": max(differences, default=None),
                "most_lost_steps": max(one["lost_steps"] for one in results),
                "undisturbed_seconds": undisturbed["seconds"],
                "median_seconds": float(np.median([one["seconds"] for one in results])),
            }
        )
    )


def _stepping_seconds(said: str) -> float:
    """The seconds of training steps, of Keras' lines of epochs."""
    return sum(float(text) for text in re.findall(r"- (\d+)s -", said)) + 1.0


if __name__ == "__main__":
    main()
