"""Samples a second of one meta-learning step, against PyTorch and loops over tasks.

Forward, both loops and all gradients of one problem (benchmarks/meta_problem.py); no exchange, no
optimizer. First the gradients of every contestant are compared with ours. Every contestant runs in
a process of its own; they take turns, round by round, and ratios are taken within a round. A sample
is one support or query row that is there. The last line is the result as JSON.

It needs the cores for itself: PyTorch's threads wait for one another by spinning, and a neighbour
on one of two cores made it ten times slower, and the others only twice. `ratio_of_best` compares
the fastest turns; where it is far from `ratio`, the machine was not quiet.

    python -m benchmarks.meta_step --quick    # a minute: the main shape, PyTorch not compiled
    python -m benchmarks.meta_step            # all shapes and contestants

PyTorch is an extra: pip install -c constraints.txt 'gmeta_tf[bench]'.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.memory import resident_bytes
from benchmarks.meta_problem import SHAPES, MetaProblem, Shape, make_problem
from benchmarks.processes import Process
from benchmarks.useful_flops import useful_flops

__all__ = ["PEERS", "largest_difference", "main"]

# TensorFlow, PyTorch and gmeta_tf are imported in the processes that are measured, not in this one.

PEERS = {
    "torch_func": ("benchmarks.peers.torch_func", "make_step"),
    "torch_func_compiled": ("benchmarks.peers.torch_func", "make_compiled_step"),
    "torch_task_loop": ("benchmarks.peers.torch_task_loop", "make_step"),
    "tf_task_loop": ("benchmarks.peers.tf_task_loop", "make_step"),
    "tf_graph_task_loop": ("benchmarks.peers.tf_task_loop", "make_graph_step"),
}
"""Name -> the module and the function that makes its step."""

_LARGEST_DIFFERENCE = 1e-4
_LARGEST_SHARE_OFF = 0.01
_CHECKED_TASKS = 16
_CHECKED_SEEDS = (1, 2, 3)
_INNER_OPTIONS: dict[str, Any] = {}  # of our gm.InnerLoop, beside what the problem says
_MATRIX_SIZE = 2048
_TASKS = (32, 128, 512)
_MEMORY_TASKS = 256
_QUICK_PEERS = ("torch_func", "torch_task_loop", "tf_task_loop")  # the others take too long

Answer = tuple[float, list[np.ndarray], np.ndarray]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parse(arguments)
    cores = sorted(os.sched_getaffinity(0))[: options.cores]
    os.sched_setaffinity(0, cores)  # the processes that follow inherit it
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    peers = _installed(options.peers)
    _say(f"{len(cores)} core(s); ours against {', '.join(peers) or 'nothing'}")

    shapes = {}
    with contextlib.ExitStack() as stack:
        contestants = {
            name: stack.enter_context(Process(_serve_steps, name, len(cores)))
            for name in ("ours", *peers)
        }
        matrices = stack.enter_context(Process(_serve_matrices))
        matrices.ask("run", 0.5)
        for name in options.shapes:
            flops, wrong = _prepare(name, contestants)
            rounds = []
            for _ in range(options.rounds):
                rates = {
                    each: process.ask("run", name, options.seconds)
                    for each, process in contestants.items()
                    if each not in wrong
                }
                rates["gemm"] = matrices.ask("run", options.seconds / 2)
                rounds.append(rates)
            shapes[name] = _result(rounds, flops) | {"solved_another_problem": wrong}
            _report(name, shapes[name])
        scaling = _scaling(contestants["ours"], options)
    memory = {form: _memory(options, form) for form in ("auto", "stacked", "vectorized")}
    main_shape = shapes.get("main", shapes[options.shapes[0]])
    result = {
        "benchmark": "meta_step",
        "ratio": main_shape["ratio"],
        "ratio_of_best": main_shape["ratio_of_best"],
        "shapes": shapes,
        "gemm_fraction": main_shape["gemm_fraction"],
        "gemm_flops_per_second": main_shape["gemm_flops_per_second"],
        "bytes_per_task": memory["auto"],
        "bytes_per_task_of_forms": memory,
        "samples_per_second_by_tasks": scaling,
        "shape_sizes": {name: dataclasses.asdict(SHAPES[name]) for name in options.shapes},
        "inner_options": _INNER_OPTIONS,
        "cores": len(cores),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": _versions(),
    }
    _say(f"samples/s by tasks: {scaling}; bytes a task, by form: {memory}")
    print(json.dumps(result))
    return result


def _prepare(name: str, contestants: dict[str, Process]) -> tuple[float, list[str]]:
    """Makes the shape's steps and checks them.

    Returns the useful operations a sample, and who is not timed because its answers are wrong: only
    PyTorch's compiler, whose code is not in our hands (2.13 makes another loss of the dlrm shape).

    A ReLU whose input is 0 but for rounding falls on either side of its kink, and then all that
    this one row adds is another, truly: of hundreds of thousands of inputs that happens now and
    then. So gradients are compared closely on three small problems, of which one may have met a
    kink; on the problem that is timed the loss is compared, and how many rows' gradients are off.

    Raises:
        RuntimeError: a contestant's gradients are not ours.
    """
    shape = SHAPES[name]
    small = dataclasses.replace(shape, tasks=min(shape.tasks, _CHECKED_TASKS))
    expected = [contestants["ours"].ask("solve", small, seed) for seed in _CHECKED_SEEDS]
    ours: Answer | None = None
    wrong: list[str] = []
    for each, process in contestants.items():
        start = time.perf_counter()
        answer = process.ask("prepare", name, shape)
        seconds = time.perf_counter() - start
        ours = answer if ours is None else ours
        loss, share = _loss_difference(answer, ours), _share_of_rows_off(answer, ours)
        line = f"{name}: {each} ready in {seconds:.1f} s; loss off ours by {loss:.1e}, "
        line += f"{share:.2%} of the row gradients"
        close = 0.0
        if each != "torch_func_compiled":  # it is torch_func's code, and each shape takes long
            answers = [process.ask("solve", small, seed) for seed in _CHECKED_SEEDS]
            close = statistics.median(map(largest_difference, answers, expected))
            line += f", all gradients of small problems by {close:.1e}"
        _say(line)
        # Written so that a NaN is refused too.
        if not (max(loss, close) <= _LARGEST_DIFFERENCE and share <= _LARGEST_SHARE_OFF):
            if each == "torch_func_compiled":
                _say(f"{name}: {each} is left out: the line above says how far it is off")
                wrong.append(each)
                continue
            raise RuntimeError(
                f"{each} does not solve our problem: on the shape {name!r} it is off by more than "
                f"{_LARGEST_DIFFERENCE} of the gradients' scale (the line above). Nothing of this "
                "shape was timed."
            )
    problem = make_problem(shape)
    counts = [part.weight.sum(axis=1).astype(int) for part in (problem.support, problem.query)]
    return useful_flops(shape, *(count.tolist() for count in counts)) / problem.samples, wrong


def largest_difference(answer: Answer, expected: Answer) -> float:
    """How far the loss and gradients are off, as a share of each one's largest number."""
    pairs = zip(_flat(answer), _flat(expected), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _loss_difference(answer: Answer, expected: Answer) -> float:
    return abs(answer[0] - expected[0]) / abs(expected[0])


def _share_of_rows_off(answer: Answer, expected: Answer) -> float:
    """The share of the rows whose gradients are off by more than what is allowed of the scale."""
    difference = np.abs(answer[2] - expected[2]).max(axis=1)
    return float(np.mean(~(difference <= _LARGEST_DIFFERENCE * np.abs(expected[2]).max())))


def _flat(answer: Answer) -> list[np.ndarray]:
    loss, gradients, row_gradients = answer
    return [np.asarray(loss), *gradients, row_gradients]


def _scaling(ours: Process, options: argparse.Namespace) -> dict[str, int]:
    """Samples a second of the main shape at several T, in turns."""
    for tasks in _TASKS:
        ours.ask(
            "prepare", f"main, {tasks} tasks", dataclasses.replace(SHAPES["main"], tasks=tasks)
        )
    rates: dict[str, list[float]] = {str(tasks): [] for tasks in _TASKS}
    for _ in range(options.rounds):
        for tasks in _TASKS:
            rates[str(tasks)].append(ours.ask("run", f"main, {tasks} tasks", options.seconds / 2))
    return {tasks: round(statistics.median(values)) for tasks, values in rates.items()}


def _memory(options: argparse.Namespace, form: str) -> int:
    """How much more memory a task takes: peaks of fresh processes at T and at 2 T.

    Args:
        options: of the command line.
        form: of the fast weights, see `gm.InnerLoop`. "vectorized" gives every task all of the
            weights, as one does without `gmeta_tf`.
    """
    peaks = []
    for tasks in (_MEMORY_TASKS, 2 * _MEMORY_TASKS):
        with Process(_serve_steps, "ours", options.cores, {"fast_weights": form}) as process:
            shape = dataclasses.replace(SHAPES["main"], tasks=tasks)
            process.ask("prepare", "main", shape)
            process.ask("run", "main", 0.2)  # the peak is reached in the first steps
            peaks.append(process.ask("memory"))
    return round((peaks[1] - peaks[0]) / _MEMORY_TASKS)


def _serve_steps(
    contestant: str, cores: int, inner_options: dict[str, Any] = _INNER_OPTIONS
) -> dict[str, Callable[..., Any]]:
    if not contestant.startswith("torch"):
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # that the steps of several problems were traced

    if contestant == "ours":
        make_step = _serve_ours(inner_options)
    else:
        make_step = _serve_peer(contestant, cores)
    steps: dict[str, tuple[Callable[[], Any], int]] = {}

    def prepare(name: str, shape: Shape) -> Answer:
        """Makes the step that will be timed and gives its first answer."""
        problem = make_problem(shape)
        steps[name] = make_step(problem), problem.samples
        return answer(steps[name][0])

    def solve(shape: Shape, seed: int) -> Answer:
        return answer(make_step(make_problem(shape, seed)))

    def answer(step: Callable[[], Any]) -> Answer:
        loss, gradients, row_gradients = step()
        return float(loss), [np.asarray(value) for value in gradients], np.asarray(row_gradients)

    def run(name: str, seconds: float) -> float:
        """Samples a second; the first step, which finds the caches cold, is not counted."""
        step, samples = steps[name]
        step()
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            step()
            calls += 1
        return samples * calls / elapsed

    return {
        "prepare": prepare,
        "solve": solve,
        "run": run,
        "memory": lambda: resident_bytes("VmHWM"),
    }


def _serve_ours(inner_options: dict[str, Any]) -> Callable[[MetaProblem], Callable[[], Any]]:
    from benchmarks import our_step

    return lambda problem: our_step.make_step(problem, **inner_options)


def _serve_peer(name: str, cores: int) -> Callable[[MetaProblem], Callable[[], Any]]:
    if name.startswith("torch"):
        import torch

        torch.set_num_threads(cores)
    module, function = PEERS[name]
    make_step = getattr(importlib.import_module(module), function)
    return _on_best_threads(make_step, cores) if name == "torch_task_loop" else make_step


def _on_best_threads(
    make_step: Callable[[MetaProblem], Callable[[], Any]], cores: int
) -> Callable[[MetaProblem], Callable[[], Any]]:
    """PyTorch steps on one thread or on all, whichever is faster: small ops lose by being split."""
    import torch

    def seconds(step: Callable[[], Any], threads: int) -> float:
        torch.set_num_threads(threads)
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
        return min(taken)

    def make(problem: MetaProblem) -> Callable[[], Any]:
        step = make_step(problem)
        threads = min({1, cores}, key=lambda number: seconds(step, number))

        def on_threads() -> Any:
            torch.set_num_threads(threads)
            return step()

        return on_threads

    return make


def _serve_matrices() -> dict[str, Callable[..., Any]]:
    """What the machine does at best: a product of large float32 matrices."""
    import tensorflow as tf

    values = tf.random.stateless_normal([_MATRIX_SIZE, _MATRIX_SIZE], seed=[1, 2])

    def run(seconds: float) -> float:
        """Floating-point operations a second."""
        tf.matmul(values, values)
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            tf.matmul(values, values)
            calls += 1
        return 2 * _MATRIX_SIZE**3 * calls / elapsed

    return {"run": run}


def _result(rounds: list[dict[str, float]], flops_a_sample: float) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round."""
    rates = {name: [each[name] for each in rounds] for name in rounds[0]}
    ours, gemm = rates["ours"], rates.pop("gemm")
    useful = [rate * flops_a_sample for rate in ours]
    return {
        "samples_per_second": round(statistics.median(ours)),
        "ratio": {name: _median_ratio(ours, rates[name]) for name in rates if name != "ours"},
        "ratio_of_best": {
            name: round(max(ours) / max(rates[name]), 4) for name in rates if name != "ours"
        },
        "gemm_fraction": _median_ratio(useful, gemm),
        "gemm_flops_per_second": round(statistics.median(gemm)),
        "useful_flops_per_sample": round(flops_a_sample),
        "samples_per_second_of_rounds": {
            name: [round(rate) for rate in values] for name, values in rates.items()
        },
    }


def _median_ratio(values: list[float], others: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, others, strict=True)), 4)


def _report(name: str, result: dict[str, Any]) -> None:
    for each, values in result["samples_per_second_of_rounds"].items():
        ratio = result["ratio"].get(each)
        _say(
            f"{name}: {each:20s} {statistics.median(values):>10,.0f} samples/s "
            f"({min(values):,} to {max(values):,})"
            + (f", ours is {ratio:.2f} times that" if ratio else "")
        )
    _say(f"{name}: ours does useful work at {result['gemm_fraction']:.3f} of the large-matrix rate")


def _installed(peers: list[str]) -> list[str]:
    """The peers that can run; says why others are left out."""
    if importlib.util.find_spec("torch") is not None:
        return peers
    without = [name for name in peers if not name.startswith("torch")]
    if without != peers:
        _say(
            "PyTorch is not installed: its contestants are left out, and so are their ratios. "
            "Install it with: pip install -c constraints.txt 'gmeta_tf[bench]'"
        )
    return without


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("tensorflow", "tensorflow-cpu", "keras", "numpy", "torch"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _say(line: str) -> None:
    print(line, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.meta_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known: dict[str, tuple[str, ...]] = {"shapes": tuple(SHAPES), "peers": tuple(PEERS)}
    parser.add_argument("--quick", action="store_true", help="the main shape and short rounds")
    for name, words in known.items():
        parser.add_argument(f"--{name}", metavar="A,B,...", help=f"of {','.join(words)} (all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each (7; quick: 4)")
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="of a turn, at least one step (2; quick: 0.5)"
    )
    parser.add_argument("--cores", type=int, metavar="N", default=2, help="cores to run on (2)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (4 if options.quick else 7)
    options.seconds = options.seconds or (0.5 if options.quick else 2.0)
    usual = {"shapes": ("main",), "peers": _QUICK_PEERS} if options.quick else known
    for name, words in known.items():
        given = getattr(options, name)
        values = list(usual[name]) if given is None else [word for word in given.split(",") if word]
        for value in values:
            if value not in words:
                parser.error(f"--{name}: expected some of {','.join(words)}, got {value!r}")
        setattr(options, name, values)
    if not options.shapes:
        parser.error("--shapes: expected at least one")
    return options


if __name__ == "__main__":
    main()
