"""`gmeta-tf serve`: an exported model behind TensorFlow Serving's REST API."""

from __future__ import annotations

import pathlib
import signal
import threading

from gmeta_tf.cli.options import ServeOptions
from gmeta_tf.saving.serving.rest_server import RestServer
from gmeta_tf.saving.serving.served_versions import ServedVersions

__all__ = ["serve"]


def serve(options: ServeOptions) -> None:
    """`gmeta-tf serve`, until it is interrupted.

    Raises:
        FileNotFoundError: no exported model.
        ValueError: none that is whole.
        OSError: the port is taken.
    """
    folder = pathlib.Path(options.saved_model)
    name = options.name or folder.resolve().name
    versions = ServedVersions(folder)
    server = RestServer(versions, name, host=options.host, port=options.port)
    server.look_every(options.poll_seconds)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    address = f"http://{options.host}:{server.server_port}/v1/models/{name}"
    print(f"serving version {versions.current.number} of {folder} at {address}", flush=True)
    ended = threading.Event()
    # Those who are being answered are answered; Ctrl-C does the same by its exception.
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        ended.wait()
    finally:
        server.stop()
