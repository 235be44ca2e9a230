"""A server of exported models with TensorFlow Serving's REST API, to try them with.

    GET  /v1/models/NAME[/versions/N]                 whether it is served
    GET  /v1/models/NAME[/versions/N]/metadata        its signatures
    POST /v1/models/NAME[/versions/N]:predict         predictions

Python's own server, a thread for each connection: it needs nothing that TensorFlow does not, and
the work is TensorFlow's, which runs outside of Python's lock. For a laptop and for tests; it knows
no TLS, no users and no limits of load.
"""

from __future__ import annotations

import http.server
import json
import logging
import re
import threading
from http import HTTPStatus
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2

from gmeta_tf.saving.serving.rest_requests import RequestError, answer_of, requested, tensors_of
from gmeta_tf.saving.serving.served_versions import ServedVersion, ServedVersions

__all__ = ["RestServer"]

_LOG = logging.getLogger(__name__)
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?([/:][a-z]+)?")
_LARGEST_BODY = 64 << 20
_IDLE_SECONDS = 60.0


class RestServer(http.server.ThreadingHTTPServer):
    """Serves the newest version of a folder, and looks for a newer one every now and then.

    Example:
        server = RestServer(ServedVersions(pathlib.Path("models/films")), "films", port=8501)
        server.look_every(1.0)
        server.serve_forever()
    """

    daemon_threads = True  # an idle connection must not keep the process
    request_queue_size = 128

    def __init__(
        self, versions: ServedVersions, name: str, *, host: str = "127.0.0.1", port: int = 8501
    ) -> None:
        """Takes the port; nothing is answered before `serve_forever`.

        Args:
            versions: what to serve.
            name: of the model in paths.
            host: the address to listen on.
            port: 0 takes any that is free; `server_port` says which.

        Raises:
            OSError: the port is taken, or the host is none of this machine's.
        """
        self.versions, self.name = versions, name
        self._stopped = threading.Event()
        self._in_flight, self._idle = 0, threading.Condition()
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise OSError(
                error.errno,
                f"expected a free --port on --host {host}: {error.strerror or error}. Choose "
                "another one",
                f"{host}:{port}",
            ) from error

    def look_every(self, seconds: float) -> threading.Thread:
        """Starts a thread that looks for newer versions until `stop`."""

        def look() -> None:
            while not self._stopped.wait(seconds):
                before = self.versions.current
                try:
                    self.versions.look()
                except Exception:
                    _LOG.exception("looking for versions in %s", self.versions.folder)
                if self.versions.current is not before:
                    _LOG.warning("version %d is served", self.versions.current.number)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        return thread

    def stop(self, wait_seconds: float = 10.0) -> None:
        """Takes no more connections, and waits for the requests that are being answered."""
        self._stopped.set()
        self.shutdown()
        with self._idle:
            self._idle.wait_for(lambda: self._in_flight == 0, wait_seconds)
        self.server_close()

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a request, as JSON values.

        Raises:
            RequestError: it cannot be answered, and why.
        """
        found = _PATH.fullmatch(path)
        verb = found[3] if found else None
        known = {(None, "GET"), ("/metadata", "GET"), (":metadata", "GET"), (":predict", "POST")}
        if not found or (verb, method) not in known:
            status = HTTPStatus.BAD_REQUEST if path.startswith("/v1/") else HTTPStatus.NOT_FOUND
            raise RequestError(
                f"Malformed request: {method} {path}. Expected GET /v1/models/{self.name}, GET "
                f"/v1/models/{self.name}/metadata or POST /v1/models/{self.name}:predict.",
                status,
            )
        version = self.versions.current
        if found[1] != self.name or found[2] not in (None, str(version.number)):
            asked = found[1] if found[2] is None else f"{found[1]} version {found[2]}"
            raise RequestError(
                f"Servable not found for request: {asked}. Version {version.number} of "
                f"{self.name} is served.",
                HTTPStatus.NOT_FOUND,
            )
        if verb is None:
            return _status_of(version)
        return _predicted(version, body) if verb == ":predict" else _metadata(version, self.name)


def _predicted(version: ServedVersion, body: bytes) -> dict[str, Any]:
    request = requested(body)
    signature = version.signatures.get(request.signature)
    if signature is None:
        raise RequestError(
            f"Serving signature name: {request.signature!r} not found in signature def; expected "
            f"one of {', '.join(sorted(version.signatures))}."
        )
    tensors = tensors_of(request, signature.structured_input_signature[1])
    try:
        outputs = signature(**tensors)
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        raise RequestError(
            f"{_reason_of(error)}. Expected lists of one length for all of a task's support rows, "
            "and for all of its query rows, and keys that tables have."
        ) from error
    return answer_of(
        {name: value.numpy() for name, value in outputs.items()}, by_task=request.by_task
    )


def _reason_of(error: tf.errors.OpError) -> str:
    """What an op says, without where in the graph and in which Python it is."""
    lines = (line.split("[[")[0].strip() for line in str(error.message).splitlines())
    of_place = ("Graph execution", "Detected at", "<stack traces", "File ")
    return next((line for line in lines if line and not line.startswith(of_place)), "rejected")


def _status_of(version: ServedVersion) -> dict[str, Any]:
    status = {
        "version": str(version.number),
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    return {"model_version_status": [status]}


def _metadata(version: ServedVersion, name: str) -> dict[str, Any]:
    signatures = {
        signature: {
            "inputs": {one: _tensor_info(info) for one, info in described.inputs.items()},
            "outputs": {one: _tensor_info(info) for one, info in described.outputs.items()},
            "method_name": described.method_name,
        }
        for signature, described in version.described.items()
    }
    spec = {"name": name, "signature_name": "", "version": str(version.number)}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}


def _tensor_info(info: Any) -> dict[str, Any]:
    dims = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
    return {
        "dtype": types_pb2.DataType.Name(info.dtype),
        "tensor_shape": {"dim": dims, "unknown_rank": info.tensor_shape.unknown_rank},
        "name": info.name,
    }


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads requests of one connection, and writes answers."""

    server: RestServer
    protocol_version = "HTTP/1.1"  # connections stay open between requests
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        with self.server._idle:
            self.server._in_flight += 1
        try:
            status, values = self._status_and_values()
            self._send(status, values)
        finally:
            with self.server._idle:
                self.server._in_flight -= 1
                self.server._idle.notify_all()

    def _status_and_values(self) -> tuple[int, dict[str, Any]]:
        try:
            body = self._body()
            return HTTPStatus.OK, self.server.answer(self.command, self.path, body)
        except RequestError as error:
            return error.status, {"error": str(error)}
        except (TimeoutError, ConnectionError):
            raise
        except Exception as error:
            _LOG.exception("%s %s", self.command, self.path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if self.command == "GET" and length is None:
            return b""
        # What is not read would be taken for the next request.
        is_last, self.close_connection = self.close_connection, True
        if length is None:
            raise RequestError("expected Content-Length.", HTTPStatus.LENGTH_REQUIRED)
        if not re.fullmatch(r"[0-9]{1,18}", length):
            raise RequestError(f"expected Content-Length to be a number, got {length!r:.40}.")
        if int(length) > _LARGEST_BODY:
            raise RequestError(
                f"expected a body of at most {_LARGEST_BODY} bytes, got {length}. Send fewer tasks "
                "at once.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        body = self.rfile.read(int(length))
        self.close_connection = is_last
        return body

    def _send(self, status: int, values: dict[str, Any]) -> None:
        text = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong, such as a method that there is not: as JSON."""
        self.close_connection = True
        self._send(code, {"error": message or HTTPStatus(code).phrase})

    def log_message(self, format: str, *arguments: Any) -> None:
        _LOG.debug(format, *arguments)
