"""An object store on this machine for the tests of remote files, and a proxy that cuts its lines.

The store is moto's server, in a process of its own. tensorflow-io reads its settings once a
process, so what uses `s3://` runs in another process, with `Store.environment`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

BUCKET = "made"

_SERVER = """
import logging, sys
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests' process closes it, by whatever way it ends
server.stop()
"""


TENSORFLOW_IO, FSSPEC = "tensorflow-io", "fsspec"
# The ways to read `s3://` that are installed. tensorflow-io fits the pinned stack alone.
WAYS = [
    way for way, name in ((TENSORFLOW_IO, "tensorflow_io"), (FSSPEC, "s3fs")) if find_spec(name)
]
# Makes fsspec the way of a process.
WITHOUT_TENSORFLOW_IO = "import sys; sys.modules['tensorflow_io'] = None\n"


def why_not() -> str:
    """What the tests of `s3://` lack here; empty if nothing."""
    missing = [name for name in ("moto", "flask", "flask_cors") if find_spec(name) is None]
    missing += [] if WAYS else ["tensorflow-io or s3fs"]
    return f"{', '.join(missing)} missing: pip install 'gmeta_tf[dev,s3]'" if missing else ""


@dataclass(frozen=True)
class Store:
    """A running store with an empty bucket.

    Attributes:
        port: where it listens, on 127.0.0.1.
    """

    port: int

    def url(self, name: str) -> str:
        """The `s3://` path of an object or folder."""
        return f"s3://{BUCKET}/{name}"

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a process needs in its environment; `port` is a proxy's, None is the store's own."""
        inherited = {name: value for name, value in os.environ.items() if not _is_setting(name)}
        return inherited | {
            "S3_ENDPOINT": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": "made",
            "AWS_SECRET_ACCESS_KEY": "made",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": "127.0.0.1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # TensorFlow 2.21 says on stderr that it is on, whatever the level.
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def put(self, name: str, content: bytes) -> None:
        """Stores an object by plain HTTP, past the code under test."""
        self._request("PUT", f"/{name}", content)

    def get(self, name: str) -> bytes:
        """An object's bytes by plain HTTP, past the code under test."""
        return self._request("GET", f"/{name}")

    def names(self) -> list[str]:
        """The names of all objects, in order."""
        listing = self._request("GET", "?list-type=2").decode()
        return sorted(re.findall("<Key>([^<]*)</Key>", listing))

    def _request(self, method: str, path: str, content: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.port}/{BUCKET}{path}"
        headers = {
            # urllib would call the content a form, and the server would look for fields in it.
            "Content-Type": "application/octet-stream",
            # The server asks whether there is a signature, not whether it is right.
            "Authorization": "AWS4-HMAC-SHA256 Credential=made/20260101/us-east-1/s3/aws4_request",
        }
        request = urllib.request.Request(url, content, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            return reply.read()


def _is_setting(name: str) -> bool:
    return name.startswith(("AWS_", "S3_")) or name.lower().endswith("_proxy")


@contextlib.contextmanager
def running_store() -> Iterator[Store]:
    """Starts a store, makes its bucket, and ends it."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.strip().isdigit(), "moto's server did not start"
            store = Store(int(line))
            store._request("PUT", "")
            yield store
        finally:
            server.stdin.close()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()


class Request(NamedTuple):
    """What a client asked for: `GET`, an object's name, the first and last byte or None."""

    method: str
    name: str
    first: int | None
    last: int | None


_REQUEST = re.compile(rf"(GET|PUT|POST) /{BUCKET}/([^ ?]*)[^ ]* HTTP(.*?)\r\n\r\n", re.DOTALL)
_RANGE = re.compile(r"\r\nrange: *bytes=(\d+)-(\d+)", re.IGNORECASE)


class CuttingProxy:
    """Passes on connections to a port, notes the requests, and cuts some answers in the middle.

    A connection over which `after_bytes` have come back is reset, `cuts` times in all; then
    whatever comes is passed on whole. Short answers (of HEAD, of a listing) are never cut.

    Attributes:
        port: where it listens, on 127.0.0.1.
        cuts: how many connections are still to be cut.
        made: how many have been.
        requests: what was asked for.
    """

    def __init__(self, target: int):
        self._target = target
        self._after_bytes = 0
        self._lock = threading.Lock()
        self.cuts = 0
        self.made = 0
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def cut(self, times: int, after_bytes: int) -> None:
        """Cuts the next `times` connections that bring `after_bytes`."""
        with self._lock:
            self.cuts, self.made, self._after_bytes = times, 0, after_bytes

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        # shutdown() wakes the thread that waits in accept(); close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for source, sink, back in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pass, args=(source, sink, back), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if back and self._cuts_now(passed + len(content)):
                    sink.sendall(content[: max(0, self._after_bytes - passed)])
                    # Lingering for no time makes close() a reset, as of a line that broke.
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
                if not back:
                    self._note(content)
                sink.sendall(content)
                passed += len(content)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _note(self, content: bytes) -> None:
        for method, name, headers in _REQUEST.findall(content.decode("latin-1")):
            asked = _RANGE.search(headers)
            first, last = (int(asked[1]), int(asked[2])) if asked else (None, None)
            with self._lock:
                self.requests.append(Request(method, urllib.parse.unquote(name), first, last))

    def _cuts_now(self, passed: int) -> bool:
        with self._lock:
            if self.cuts == 0 or passed < self._after_bytes:
                return False
            self.cuts -= 1
            self.made += 1
            return True


def set_up(environment: dict[str, str], way: str) -> None:
    """A worker's first act: its environment, and of `WAYS` the one by which it reads `s3://`."""
    os.environ.clear()
    os.environ.update(environment)
    if way == FSSPEC:
        exec(WITHOUT_TENSORFLOW_IO)


@dataclass(frozen=True)
class Remote:
    """A store, the proxy before it, and a process that reaches the store through the proxy."""

    way: str
    store: Store
    proxy: CuttingProxy
    worker: concurrent.futures.Executor

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What the function gives or raises in that process."""
        return self.worker.submit(function, *args, **options).result(timeout=120)

    def script(self, *lines: str) -> list[str]:
        """The arguments of a Python that runs lines of code, and reads `s3://` by the same way."""
        before = WITHOUT_TENSORFLOW_IO if self.way == FSSPEC else ""
        return [sys.executable, "-c", before + "\n".join(lines)]


@contextlib.contextmanager
def running_remote(way: str) -> Iterator[Remote]:
    """Starts all three, and ends them; the process reads `s3://` by a way of `WAYS`."""
    with (
        running_store() as store,
        CuttingProxy(store.port) as proxy,
        concurrent.futures.ProcessPoolExecutor(
            1,
            multiprocessing.get_context("spawn"),
            set_up,
            (store.environment(proxy.port), way),
        ) as worker,
    ):
        yield Remote(way, store, proxy, worker)


def read_records(path: str) -> list[bytes]:
    """The records of a TFRecord file, through tf.data."""
    import tensorflow as tf

    from gmeta_tf.meta_io import files

    opens = files.is_opened_by_tensorflow(path)
    with contextlib.nullcontext(path) if opens else files.as_local(path) as opened:
        return [record.numpy() for record in tf.data.TFRecordDataset(opened)]
