"""`gmeta-tf doctor`: what of this machine would slow or stop training."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from gmeta_tf.cli.options import DoctorOptions
from gmeta_tf.distributed.world import World
from gmeta_tf.launching.devices import detect
from gmeta_tf.launching.doctor import Finding, describe_machine, examine, horovod_finding
from gmeta_tf.launching.network import choose, link_bytes_per_second

__all__ = ["doctor"]


def doctor(options: DoctorOptions) -> None:
    """`gmeta-tf doctor`; with `--links` also under a launcher, where rank 0 prints.

    Raises:
        SystemExit: 1 where training would fail.
        ImportError: `--links` on several ranks, and no Horovod.
    """
    world = World.detect()
    links = _links(world) if options.links else None
    if not world.is_chief:
        return
    machine = detect()
    horovod = horovod_finding()
    findings = [*examine(options.folder), horovod]
    if links == []:
        findings.append(
            Finding(
                "warning",
                "links",
                "one rank alone has none",
                "gmeta-tf launch -np 2 -- gmeta-tf doctor --links",
            )
        )
    expected = link_bytes_per_second(machine)
    if links:
        findings.append(_judged(links, expected))
    choices = choose(machine, local_ranks=2, mpi="MPI" in horovod.text)
    if options.json:
        told: dict[str, Any] = {
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "devices": describe_machine(machine),
            "network": [dataclasses.asdict(choice) for choice in choices],
            "link_bytes_per_second": expected,
        }
        if links is not None:
            told["links"] = links
        print(json.dumps(told))
    else:
        for finding in findings:
            print("\n".join(finding.lines()))
        print("\ndevices")
        for line in describe_machine(machine):
            print(f"  {line}")
        print("\nwhat `gmeta-tf launch` sets for several hosts like this one, unless it is set")
        for choice in choices:
            print(f"  {choice.name}={choice.value or '(not set)'}: {choice.why}")
        for line in _table(links or []):
            print(line)
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


def _links(world: World) -> list[dict[str, Any]]:
    from gmeta_tf.distributed.collectives import start
    from gmeta_tf.distributed.link_measurement import measure_links

    start(world)
    return [
        {**dataclasses.asdict(figure), "bytes_per_second": figure.bytes_per_second}
        for figure in measure_links(world)
    ]


def _judged(links: list[dict[str, Any]], expected: float | None) -> Finding:
    """The best rate to other hosts against what the devices should give."""
    other = [one for one in links if one["between"] == "other hosts"]
    if not other:
        best = max(one["bytes_per_second"] for one in links)
        return Finding("ok", "links", f"all ranks on one host, at best {best / 1e9:.2f} GB/s")
    best = max(one["bytes_per_second"] for one in other)
    if expected is None:
        return Finding("ok", "links", f"{best / 1e9:.2f} GB/s a rank; the devices tell no speed")
    text = f"{best / 1e9:.2f} GB/s a rank of {expected / 1e9:.2f} GB/s that the devices give"
    if best < expected / 2:
        return Finding(
            "warning",
            "links",
            text,
            "several ranks a host share it; otherwise look at the interface that was chosen, at "
            "its errors (ip -s link), its MTU, and at what else uses the network",
        )
    return Finding("ok", "links", text)


def _table(links: list[dict[str, Any]]) -> list[str]:
    if not links:
        return []
    lines = ["", "links          between      message       time     sent a rank"]
    for one in links:
        size = one["message_bytes"]
        message = f"{size / 1024:.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.0f} MiB"
        lines.append(
            f"  {one['collective']:<12} {one['between']:<11} {message:>8} "
            f"{one['seconds'] * 1e3:>8.3f} ms {one['bytes_per_second'] / 1e6:>10.1f} MB/s"
        )
    return lines
