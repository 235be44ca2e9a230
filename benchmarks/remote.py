"""Samples a second of records on `s3://`: read by tensorflow-io, by fsspec, and from a local disk.

A server on this machine gives the objects, so it is the readers' own work that is compared, not a
network. Every reader runs in a process of its own; they take turns, round by round. A way that is
not installed is left out. The last line is the result as JSON.

    python -m benchmarks.remote --quick      # half a minute: 300,000 rows
    python -m benchmarks.remote              # 5 million rows
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import sys
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.made_log import MadeLog
from benchmarks.meta_io import Sizes, records_of, serve_dataset, serve_prepare
from benchmarks.processes import Process

__all__ = ["main"]

WAYS = {"tensorflow_io": "tensorflow_io", "fsspec": "s3fs"}
_BUCKET = "made"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark and returns what the last line says."""
    options = _parser().parse_args(arguments)
    if options.quick:
        options.rows, options.rounds, options.seconds = min(options.rows, 300_000), 3, 1.0
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    log = MadeLog.cached(options.rows, options.cache)
    log.parquet_files()
    with Process(serve_prepare, log, "1GB") as process:
        process.ask("run")

    sizes = Sizes(options.tasks, options.support, options.query)
    ways = ["local", *(way for way, name in WAYS.items() if importlib.util.find_spec(name))]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_ObjectServer(records_of(log).parent)).port
        readers = {
            way: stack.enter_context(Process(_serve_reader, way, port, records_of(log), sizes))
            for way in ways
        }
        for reader in readers.values():
            reader.ask("run", 0.0, options.seconds)
        rounds = [
            {way: reader.ask("run", 0.5, options.seconds) for way, reader in readers.items()}
            for _ in range(options.rounds)
        ]
        bytes_a_sample = readers["local"].ask("bytes_a_sample")
    result = {
        way: {
            "samples_per_second": round(statistics.median(each[way] for each in rounds)),
            "ratio_to_local": round(statistics.median(e[way] / e["local"] for e in rounds), 3),
        }
        for way in ways
    }
    for way, figures in result.items():
        rate = figures["samples_per_second"]
        print(f"{way:14}{rate:>12,} samples/s {rate * bytes_a_sample / 1e6:>8.1f} MB/s")
    about = {"rows": options.rows, "batch": dataclasses.asdict(sizes), "rounds": options.rounds}
    print(json.dumps({"benchmark": "remote", **result, **about}))
    return result


def _serve_reader(
    way: str, port: int, records: pathlib.Path, sizes: Sizes
) -> dict[str, Callable[..., Any]]:
    os.environ |= {
        "S3_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "made",
        "AWS_SECRET_ACCESS_KEY": "made",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1",
    }
    if way == "fsspec":
        sys.modules["tensorflow_io"] = None  # type: ignore[assignment]  # so it is not chosen
    import gmeta_tf as gm

    path = str(records) if way == "local" else f"s3://{_BUCKET}/{records.name}"
    batches = gm.TaskBatches(
        gm.Records.open(path), "train", every_row=True, **dataclasses.asdict(sizes)
    )
    num_bytes = sum(file.stat().st_size for file in records.glob("train-*.tfrecord"))
    return serve_dataset(batches.dataset()) | {
        "bytes_a_sample": lambda: num_bytes / batches.samples_per_epoch
    }


class _ObjectServer:
    """A process that gives a folder's files by S3's GET and HEAD."""

    def __init__(self, folder: pathlib.Path) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve_objects, args=(folder, theirs), daemon=True)
        self._process.start()
        self.port: int = ours.recv()

    def __enter__(self) -> _ObjectServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _serve_objects(folder: pathlib.Path, connection: Connection) -> None:
    class Handler(_Handler):
        root = folder

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    connection.send(server.server_address[1])
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    root: pathlib.Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if (answered := self._answer()) is not None:
            path, first, last = answered
            with path.open("rb") as file:
                self.wfile.flush()
                self.connection.sendfile(file, first, last - first + 1)

    def _answer(self) -> tuple[pathlib.Path, int, int] | None:
        """Sends the head of the answer; the file, its first and its last byte asked for."""
        name = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        path = self.root / name.removeprefix(f"/{_BUCKET}/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        last = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        return path, first, last

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.remote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="300,000 rows and short rounds")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the log (%(default)s)")
    parser.add_argument("--tasks", type=int, default=128, help="T, tasks a batch (%(default)s)")
    parser.add_argument("--support", type=int, default=10, help="S of a task (%(default)s)")
    parser.add_argument("--query", type=int, default=20, help="Q of a task (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn (%(default)s)")
    parser.add_argument("--cache", help="where logs are kept; else $GMETA_DATA, ~/.cache/gmeta_tf")
    return parser


if __name__ == "__main__":
    main()
