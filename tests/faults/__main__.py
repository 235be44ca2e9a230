"""`python -m tests.faults`: the fault campaign.

python -m tests.faults                          # the quick part, which the gate runs too
python -m tests.faults --full                   # everything
python -m tests.faults --full --jobs 2                 # on two cores
python -m tests.faults --full --most 5                 # of each group a few
python -m tests.faults --full --only kills,flips --seed 1
python -m tests.faults --case kills/append/17   # one case again

It prints each fault with the case that repeats it, and a JSON object as its last line.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from tests.faults import (
    children,
    concurrent,
    flips,
    full_disk,
    kills,
    limits,
    mutations,
    rank_kills,
)
from tests.faults.file_operations import why_unavailable
from tests.faults.outcome import KINDS, Case, Group, Tally
from tests.faults.place import Place

_CAMPAIGNS = {
    "kills": kills,
    "rank_kills": rank_kills,
    "flips": flips,
    "mutations": mutations,
    "full_disk": full_disk,
    "concurrent": concurrent,
    "limits": limits,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign: 0 where everything was survived, 1 otherwise."""
    options = _parser().parse_args(arguments)
    if reason := why_unavailable():
        print(f"tests.faults: cannot watch file operations: {reason}.", file=sys.stderr)
        return 2
    children.warm_up()
    return _report(_in_jobs(options) if options.jobs > 1 else _tried(options, 0))


def _in_jobs(options: argparse.Namespace) -> dict[str, Tally]:
    """Tries the cases in several processes, each with files of its own and every n-th case."""
    jobs = []
    for job in range(options.jobs):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reads)
            with os.fdopen(writes, "wb") as file:
                pickle.dump(dict(_tried(options, job)), file)
            os._exit(0)
        os.close(writes)
        jobs.append((pid, reads))
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    for pid, reads in jobs:
        with os.fdopen(reads, "rb") as file:
            content = file.read()
        if os.waitpid(pid, 0)[1] or not content:
            raise SystemExit("tests.faults: a job ended before its cases; see above")
        for campaign, tally in pickle.loads(content).items():
            tallies[campaign].counts += tally.counts
            tallies[campaign].num_faults += tally.num_faults
    return tallies


def _tried(options: argparse.Namespace, job: int) -> dict[str, Tally]:
    """Tries a job's cases, and prints a line of each."""
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    # Not a TemporaryDirectory, which each child would remove at its end.
    work = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        place = Place(work)
        for turn, (campaign, group, number, case, of) in enumerate(_chosen(place, options)):
            if turn % options.jobs != job:
                continue
            began = time.perf_counter()
            fault = tallies[campaign].add(case, of)
            seconds = time.perf_counter() - began
            name = f"{campaign}/{group}/{number}"
            ended = "survived" if fault is None else fault.kind.upper()
            told = f"{name:28} {ended:9} {seconds:6.1f} s  {case.what}\n"
            if fault is not None:
                again = f"python -m tests.faults --case {name} --seed {options.seed}"
                told += f"  {fault}\n  again: {again}\n"
            sys.stdout.write(told)
            sys.stdout.flush()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tallies


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all cases, and not a few of each")
    parser.add_argument(
        "--only",
        help=f"campaigns or groups of them (kills/train), commas between: {','.join(_CAMPAIGNS)}",
    )
    parser.add_argument("--case", help="one case, by its name, such as kills/append/17")
    parser.add_argument("--most", type=int, help="at most so many cases of each group, drawn")
    parser.add_argument("--jobs", type=int, default=1, help="processes that try cases (1)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _chosen(
    place: Place, options: argparse.Namespace
) -> Iterator[tuple[str, str, int, Case, float]]:
    """The cases to try."""
    only = options.only.split(",") if options.only else list(_CAMPAIGNS)
    wanted = options.case.split("/") if options.case else None
    for campaign in only:
        if campaign.split("/")[0] not in _CAMPAIGNS:
            raise SystemExit(f"--only: expected some of {', '.join(_CAMPAIGNS)}, got {campaign!r}.")
        if wanted and campaign != wanted[0]:
            continue
        campaign, _, only_group = campaign.partition("/")
        found: dict[str, Group] = _CAMPAIGNS[campaign].groups(place)
        for name, group in found.items():
            if (wanted and name != wanted[1]) or (only_group and name != only_group):
                continue
            full = options.full or wanted is not None
            for number, case, of in group.chosen(name, options.seed, full=full, most=options.most):
                if wanted is None or number == int(wanted[2]):
                    yield campaign, name, number, case, of


def _report(tallies: dict[str, Tally]) -> int:
    report = {campaign: tally.to_json() for campaign, tally in tallies.items()}
    total = {kind: sum(one[kind] for one in report.values()) for kind in ("tried", "of", *KINDS)}
    for campaign, counts in report.items():
        print(f"{campaign}: tried {counts['tried']} of {counts['of']}")
    print(json.dumps({**report, "total": total}))
    return 0 if total["tried"] and total["survived"] == total["tried"] else 1


if __name__ == "__main__":
    sys.exit(main())
