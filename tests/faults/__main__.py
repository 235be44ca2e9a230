"""`python -m tests.faults`: the fault campaign.

python -m tests.faults                          # the quick part, which the gate runs too
python -m tests.faults --full                   # everything
python -m tests.faults --full --only kills,flips --seed 1
python -m tests.faults --case kills/append/17   # one case again

It prints each fault with the case that repeats it, and a JSON object as its last line.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
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
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    # Not a TemporaryDirectory, which each child would remove at its end.
    work = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        place = Place(work)
        for campaign, group, number, case in _chosen(place, options):
            began = time.perf_counter()
            fault = tallies[campaign].add(case)
            seconds = time.perf_counter() - began
            name = f"{campaign}/{group}/{number}"
            ended = "survived" if fault is None else fault.kind.upper()
            print(f"{name:28} {ended:9} {seconds:6.1f} s  {case.what}", flush=True)
            if fault is not None:
                again = f"python -m tests.faults --case {name} --seed {options.seed}"
                print(f"  {fault}\n  again: {again}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _report(tallies)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all cases, and not a few of each")
    parser.add_argument("--only", help=f"campaigns with commas between: {','.join(_CAMPAIGNS)}")
    parser.add_argument("--case", help="one case, by its name, such as kills/append/17")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _chosen(place: Place, options: argparse.Namespace) -> Iterator[tuple[str, str, int, Case]]:
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
            for number, case in group.chosen(name, options.seed, full=full):
                if wanted is None or number == int(wanted[2]):
                    yield campaign, name, number, case


def _report(tallies: dict[str, Tally]) -> int:
    report = {campaign: tally.to_json() for campaign, tally in tallies.items()}
    total = {kind: sum(one[kind] for one in report.values()) for kind in ("tried", *KINDS)}
    print(json.dumps({**report, "total": total}))
    return 0 if total["tried"] and total["survived"] == total["tried"] else 1


if __name__ == "__main__":
    sys.exit(main())
