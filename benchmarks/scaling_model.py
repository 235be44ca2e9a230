"""What a step should take on more ranks than there are here, and how far such a prediction is off.

    python -m benchmarks.scaling_model --table   # the prediction alone: no root, a second
    python -m benchmarks.scaling_model --quick   # checked on 2 simulated hosts at 2 rates
    python -m benchmarks.scaling_model           # checked on 2 and 4 simulated hosts at 4 rates

A step is a rank's compute, two AlltoAlls, and the sum of the dense gradients, one after the other:

    messages   2 (W - 1) alpha of the AlltoAlls, 2 log2(W) alpha of the sum
    exchange   B / beta of each link that it crosses: a rank keeps 1/W of its bytes, hands (L - 1)/W
               to its host's other ranks, and the L ranks of a host share the link for the rest
    dense      2 (W - 1)/W K / beta

alpha is what one more message costs its sender, beta the bytes a second of a link, L the ranks of a
host, B the bytes of the keys, rows and gradients of a rank's step, K those of its dense gradients.

*Check* (root): hosts of one rank each, joined by links of a chosen rate (launch/simcluster.sh).
What a step takes without a limit stands for compute and messages; what it takes at a rate is
predicted from that, from the bytes of 2 ranks, and from the rate. All ranks share this machine's
cores, so what is checked is how time grows as links get slower and hosts more; not how compute
does, nor alpha.

*Table*: 8 GPUs a host. Nothing in it was measured on a GPU: compute is what `--compute-ms` says,
beta is what the links' makers name, and alpha is an assumption. `centre` is a parameter server's:
the gradients of all ranks go to one host and back, 2 W K bytes through one link.

The last line is the result as JSON: `ratio.*` are predicted over measured seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import tempfile
from typing import Any

from benchmarks.network import counted, launched, made_records, set_rate, simulated_hosts, training

__all__ = ["Cluster", "Link", "Step", "centre_seconds", "main", "step_seconds"]

_NO_LIMIT = "none"
_TASKS, _WIDTH = 64, 64


@dataclasses.dataclass(frozen=True)
class Link:
    """What joins two ranks, or two hosts.

    Attributes:
        wait_seconds: alpha, of one more message.
        bytes_per_second: beta, one way.
    """

    wait_seconds: float
    bytes_per_second: float


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Hosts of as many ranks each.

    Attributes:
        hosts: how many.
        per_host: L.
        within: between two ranks of a host.
        across: of a host to all others; its ranks share it.
    """

    hosts: int
    per_host: int
    within: Link
    across: Link

    @property
    def size(self) -> int:
        """W."""
        return self.hosts * self.per_host


@dataclasses.dataclass(frozen=True)
class Step:
    """What a rank does in a step.

    Attributes:
        compute_seconds: without any exchange.
        exchange_bytes: B, of keys, rows and gradients, to whichever rank they go.
        dense_bytes: K.
    """

    compute_seconds: float
    exchange_bytes: float
    dense_bytes: float


def step_seconds(step: Step, cluster: Cluster) -> dict[str, float]:
    """The terms of a step's time; it takes their sum.

    Example:
        >>> fast, slow = Link(0.0, 1e9), Link(0.0, 1e8)
        >>> terms = step_seconds(Step(0.1, 4e6, 0.0), Cluster(2, 2, fast, slow))
        >>> terms["compute"], terms["within"], terms["across"]  # 1 MB to each; 4 MB share a link
        (0.1, 0.001, 0.04)
    """
    size, within, across = cluster.size, cluster.within, cluster.across
    share = step.exchange_bytes / size
    ring_link = across if cluster.hosts > 1 else within
    ring = 2 * (size - 1) / size * step.dense_bytes / ring_link.bytes_per_second
    waits = (cluster.per_host - 1) * within.wait_seconds
    waits += (size - cluster.per_host) * across.wait_seconds
    return {
        "compute": step.compute_seconds,
        "messages": 2 * waits + 2 * math.log2(size) * ring_link.wait_seconds,
        "within": (cluster.per_host - 1) * share / within.bytes_per_second,
        "across": cluster.per_host * (size - cluster.per_host) * share / across.bytes_per_second,
        "dense": ring,
    }


def centre_seconds(step: Step, cluster: Cluster) -> float:
    """What a parameter server's link takes for the dense gradients of all ranks, and back.

    Example:
        >>> centre_seconds(Step(0.0, 0.0, 1e6), Cluster(8, 8, Link(0, 1e9), Link(0, 1e9)))
        0.128
    """
    return 2 * cluster.size * step.dense_bytes / cluster.across.bytes_per_second


# One network card a host. alpha is assumed.
_NVLINK = Link(2e-6, 300e9)  # A100: 600 GB/s, both ways together
_NETWORKS = {
    "RoCE 200": Link(2e-6, 25e9),
    "RoCE 100": Link(2e-6, 12.5e9),
    "TCP 25": Link(10e-6, 3.125e9),
}
_GPUS_A_HOST = 8
_SIZES = (4, 8, 32, 128, 512, 1024)


def main(arguments: list[str] | None = None) -> dict[str, Any] | None:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    if options.as_rank:
        _run_rank(options)
        return None
    step = Step(options.compute_ms / 1e3, 1e6 * options.exchange_mb, 1e6 * options.dense_mb)
    result: dict[str, Any] = {"benchmark": "scaling_model", "table": _table(step)}
    if not options.table:
        result |= _checked(options.hosts, options.rates, options.steps)
    print(json.dumps(result))
    return result


def _table(step: Step) -> dict[str, dict[str, Any]]:
    """Network -> W -> the predicted terms in milliseconds, the efficiency and the centre's time."""
    found: dict[str, dict[str, Any]] = {}
    for name, across in _NETWORKS.items():
        for size in _SIZES:
            per_host = min(size, _GPUS_A_HOST)
            cluster = Cluster(size // per_host, per_host, _NVLINK, across)
            terms = step_seconds(step, cluster)
            total = sum(terms.values())
            figures = {each: float(f"{1e3 * value:.3g}") for each, value in terms.items()}
            figures["efficiency"] = float(f"{step.compute_seconds / total:.2g}")
            figures["centre"] = float(f"{1e3 * centre_seconds(step, cluster):.3g}")
            found.setdefault(name, {})[str(size)] = figures
            largest = max((each for each in terms if each != "compute"), key=terms.__getitem__)
            print(
                f"{name:9s} {size:5d} GPUs  step {1e3 * total:9.2f} ms  efficiency "
                f"{figures['efficiency']:5.2f}  largest beside compute: {largest:8s}  "
                f"a centre's link {figures['centre']:9.2f} ms",
                flush=True,
            )
    return found


def _checked(hosts: list[int], rates: list[str], steps: int) -> dict[str, Any]:
    """Predicted and measured seconds of a step, on simulated hosts."""
    figures: dict[str, Any] = {}
    ratio: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        records = made_records(folder, tasks=16 * _TASKS)
        stack.enter_context(simulated_hosts(max(hosts), _NO_LIMIT))
        bytes_of_two = 0.0
        for size in sorted({2, *hosts}):
            base: dict[str, float] = {}
            for rate in (_NO_LIMIT, *rates):
                set_rate(rate)
                measured = launched(
                    "benchmarks.scaling_model",
                    size,
                    1,
                    ["--records", records, "--steps", str(steps)],
                )
                base = base or measured
                bytes_of_two = bytes_of_two or measured["sent_bytes"]
                name = f"{size}_hosts_{rate}"
                figures[name] = {
                    "measured": measured["seconds"],
                    "sent_bytes": measured["sent_bytes"],
                }
                if rate == _NO_LIMIT:
                    continue
                # 2 ranks send half of B; without a limit, the links are far from being full.
                step = Step(base["seconds"], 2 * bytes_of_two, 0.0)
                link = Link(0.0, bytes_per_second(rate))
                predicted = sum(step_seconds(step, Cluster(size, 1, link, link)).values())
                figures[name] = measured | {"predicted": predicted}
                ratio[name] = round(predicted / measured["seconds"], 3)
                print(
                    f"{size} hosts at {rate:8s}: predicted {1e3 * predicted:7.1f} ms, measured "
                    f"{1e3 * measured['seconds']:7.1f} ms, ratio {ratio[name]}",
                    flush=True,
                )
    return {"check": figures, "ratio": ratio}


def bytes_per_second(rate: str) -> float:
    """Of a rate as `tc` has it.

    Example:
        >>> bytes_per_second("200mbit")
        25000000.0
    """
    for unit, factor in {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}.items():
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor / 8
    raise ValueError(f"expected a rate such as 200mbit or 1gbit, got {rate!r}.")


def _run_rank(options: argparse.Namespace) -> None:
    """The median seconds of a step, and the bytes that the busiest host sends in one."""
    from gmeta_tf.distributed.world import World

    world = World.detect()
    run = training(world, options.records, _TASKS, _WIDTH, exchange="flat")
    run(3)  # traces, and fills what is ready ahead
    turns = [counted(world, functools.partial(run, options.steps)) for _ in range(5)]
    answer = {
        "seconds": statistics.median(seconds for seconds, _, _ in turns) / options.steps,
        "sent_bytes": statistics.median(max(sent) for _, sent, _ in turns) / options.steps,
    }
    if world.is_chief:
        pathlib.Path(options.as_rank).write_text(json.dumps(answer), encoding="utf-8")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--table", action="store_true", help="the prediction alone")
    parser.add_argument("--quick", action="store_true", help="2 hosts, 2 rates, few steps")
    parser.add_argument("--hosts", type=int, nargs="+", metavar="N", help="simulated (2 4)")
    parser.add_argument("--rates", nargs="+", metavar="RATE", help="as tc has them")
    parser.add_argument("--steps", type=int, metavar="N", help="of a turn (20; quick: 8)")
    for name, value, text in (
        ("--compute-ms", 5.0, "of a rank's step, for the table; assumed, not measured"),
        ("--exchange-mb", 2.1, "B: 8,000 distinct keys of D = 32"),
        ("--dense-mb", 1.0, "K: 250,000 dense weights"),
    ):
        parser.add_argument(name, type=float, default=value, metavar="X", help=f"{text} ({value})")
    for name in ("--as-rank", "--records"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.hosts = options.hosts or ([2] if options.quick else [2, 4])
    rates = ["200mbit", "50mbit"] if options.quick else ["400mbit", "200mbit", "100mbit", "50mbit"]
    options.rates = options.rates or rates
    options.steps = options.steps or (8 if options.quick else 20)
    return options


if __name__ == "__main__":
    main()
