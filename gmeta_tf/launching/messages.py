"""What a launcher and its ranks' guards say to each other: one JSON object a line, over TCP."""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import threading
from collections.abc import Mapping
from typing import Any

__all__ = ["ADDRESS", "BEAT_FILE", "Control", "candidates", "connect", "send"]

# The port, the launcher's addresses and a word that only this launch's guards know.
ADDRESS = "GMETA_LAUNCHER"
# The file in which a rank says how far it is (gmeta_tf.saving.runs.heartbeat).
BEAT_FILE = "GMETA_HEARTBEAT"
_SECONDS = 10.0


class Control:
    """The launcher's end: takes the guards' connections, and puts what they say into a queue.

    Attributes:
        events: `(rank, message)`; a message of None says that the rank's connection has ended.
        address: what guards find in the variable `ADDRESS`.
    """

    def __init__(self, port: int = 0) -> None:
        """Listens.

        Args:
            port: to listen on; 0 takes any that is free.

        Raises:
            OSError: the port is taken.
        """
        self._word = secrets.token_hex(16)
        self._server = socket.create_server(("", port), backlog=1024)
        self.port = self._server.getsockname()[1]
        names = (socket.gethostname(), "127.0.0.1")
        self.address = f"{self.port} {self._word} {','.join(names)}"
        self.events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
        self._ranks: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def tell(self, **message: Any) -> None:
        """Sends every guard that is connected a message."""
        with self._lock:
            for connection in self._ranks.values():
                send(connection, message)

    def close(self) -> None:
        """Stops listening, and leaves the guards, which then end their ranks."""
        self._server.close()
        with self._lock:
            for connection in self._ranks.values():
                connection.close()
            self._ranks.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        rank = None
        with connection, connection.makefile("r", encoding="utf-8") as lines:
            try:
                first = json.loads(lines.readline() or "{}")
                if first.get("word") != self._word:
                    return
                connection.sendall(b'{"do": "begin"}\n')
                rank = first.get("rank")
                if rank is None:  # a check that the port can be reached
                    return
                _keep_alive(connection)
                with self._lock:
                    self._ranks[rank] = connection
                self.events.put((rank, first))
                for line in lines:
                    self.events.put((rank, json.loads(line)))
            except (OSError, ValueError):
                pass
        if rank is not None:
            with self._lock:
                self._ranks.pop(rank, None)
            self.events.put((rank, None))


def send(connection: socket.socket, message: Mapping[str, Any]) -> bool:
    """Whether the message could be sent."""
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        return False
    return True


def candidates(environment: Mapping[str, str]) -> list[str]:
    """The addresses at which the launcher may be, seen from a rank's host."""
    found = [environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR", "")]
    found.append(environment.get("SSH_CONNECTION", "").split(" ")[0])
    return [name for name in dict.fromkeys([*found, *_parts(environment)[2].split(",")]) if name]


def connect(environment: Mapping[str, str] = os.environ, **about: Any) -> socket.socket:
    """Connects to the launcher.

    Args:
        environment: with `ADDRESS`.
        about: what to say first: `rank`, `host`.

    Raises:
        OSError: it cannot be reached.
    """
    port, word, _ = _parts(environment)
    tried = candidates(environment)
    for name in tried:
        try:
            connection = socket.create_connection((name, int(port)), timeout=_SECONDS)
        except OSError:
            continue
        if send(connection, {"word": word, **about}) and _greets(connection):
            connection.settimeout(None)
            _keep_alive(connection)
            return connection
        connection.close()
    raise OSError(
        f"the launcher cannot be reached from {socket.gethostname()}: tried port {port} of "
        f"{', '.join(tried)}. Open the port in the firewall; `gmeta-tf launch --port` chooses one."
    )


def _keep_alive(connection: socket.socket) -> None:
    """A host that vanishes says nothing: the connection then ends after 17 s, before Gloo's 30."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 4)):
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _greets(connection: socket.socket) -> bool:
    try:
        return connection.recv(64).startswith(b'{"do": "begin"}')
    except OSError:
        return False


def _parts(environment: Mapping[str, str]) -> list[str]:
    parts = environment.get(ADDRESS, "").split(" ")
    if len(parts) != 3:
        raise OSError(f"no launcher: {ADDRESS} is not set. Start the ranks with `gmeta-tf launch`.")
    return parts
