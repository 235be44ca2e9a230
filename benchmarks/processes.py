"""Processes that take turns: what is measured runs in one of its own."""

from __future__ import annotations

import multiprocessing
import pathlib
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Process", "descendants"]


class Process:
    """A process that answers questions; while none is asked it has nothing to do.

    Example:
        with Process(serve, argument) as process:
            process.ask("run", 0.5, 3.0)

    Args:
        serve: called in the process with the arguments, gives an answer for each question's name.
    """

    def __init__(self, serve: Callable[..., dict[str, Callable[..., Any]]], *arguments: Any):
        # spawn: a forked child would begin with this process' memory and threads.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_answer, args=(theirs, serve, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer; RuntimeError when the process fails or ends."""
        self._connection.send((question, arguments))
        try:
            failure, answer = self._connection.recv()
        except EOFError as error:
            self._process.join()
            raise RuntimeError(
                f"the process ended with status {self._process.exitcode} at {question!r}."
            ) from error
        if failure:
            raise RuntimeError(f"the process failed at {question!r}:\n{failure}")
        return answer

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()


def _answer(connection: Connection, serve: Callable[..., Any], arguments: Any) -> None:
    answers: dict[str, Callable[..., Any]] | None = None
    reply: tuple[str | None, Any]
    while True:
        try:
            question, details = connection.recv()
        except EOFError:
            return
        try:
            answers = serve(*arguments) if answers is None else answers
            reply = (None, answers[question](*details))
        except Exception:
            reply = (traceback.format_exc(), None)
        connection.send(reply)


def descendants(parent: int) -> Iterator[int]:
    """The processes that a process started, and those that they did, as far as they still run."""
    for task in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            yield child
            yield from descendants(child)
