"""What a case of the campaign came to, and their numbers."""

from __future__ import annotations

import collections
import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

__all__ = ["KINDS", "Case", "Fault", "Group", "Tally", "expect"]

KINDS = ("survived", "lost", "hung", "traceback")


class Fault(Exception):
    """A case that the product did not survive.

    Attributes:
        kind: "lost" (data or an earlier result is gone, or silently another), "hung" (no end
            within the limit) or "traceback" (a traceback or a crash for a user's fault).
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def expect(holds: bool, detail: str, kind: str = "lost") -> None:
    """Raises a `Fault` unless something holds."""
    if not holds:
        raise Fault(kind, detail)


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault to try.

    Attributes:
        what: the fault, in words.
        check: causes it and looks at what is left; raises a `Fault`.
        stands_for: how many faults of its kind there are for each that is tried.
    """

    what: str
    check: Callable[[], None]
    stands_for: float = 1.0


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases of one kind.

    Attributes:
        cases: makes them all, always the same ones from the same draw.
        quick: how many of them the quick part tries.
    """

    cases: Callable[[random.Random], Sequence[Case]]
    quick: int

    def chosen(
        self, name: str, seed: int, *, full: bool, most: int | None = None
    ) -> Iterator[tuple[int, Case, float]]:
        """The cases to try: all or at most so many, or as many as the quick part tries.

        Yields:
            Its number, the case, and how many faults there are for each that is tried.
        """
        if not full and not self.quick:
            return
        cases = self.cases(random.Random(f"{seed}/{name}"))
        numbers = range(len(cases))
        limit = (most or len(cases)) if full else self.quick
        if limit < len(cases):
            numbers = sorted(random.Random(f"{seed}/{name}/quick").sample(numbers, limit))
        total = sum(case.stands_for for case in cases)
        for number in numbers:
            yield number, cases[number], total / len(numbers)


@dataclasses.dataclass
class Tally:
    """How many cases of a campaign came to what, and how many faults they stand for."""

    num_faults: float = 0.0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def add(self, case: Case, stands_for: float) -> Fault | None:
        """Tries a case, counts what it came to, and returns its fault."""
        self.num_faults += stands_for
        try:
            case.check()
        except Fault as fault:
            self.counts[fault.kind] += 1
            return fault
        self.counts["survived"] += 1
        return None

    def to_json(self) -> dict[str, int]:
        counts = {kind: self.counts[kind] for kind in KINDS}
        return {"tried": self.counts.total(), "of": round(self.num_faults), **counts}
