"""The server answers as the SavedModel does, also while its versions change."""

import base64
import http.client
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from made_exports import make_model, train

import gmeta_tf as gm
from gmeta_tf.cli import main as cli
from gmeta_tf.saving.serving.rest_server import RestServer
from gmeta_tf.saving.serving.served_versions import ServedVersions

# The whole of it is 2,000 from 8 clients; the gate takes fewer.
NUM_REQUESTS = int(os.environ.get("GMETA_SERVED_REQUESTS", "400"))
NUM_CLIENTS = 8


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two versions whose predictions differ."""
    folder = tmp_path_factory.mktemp("exports")
    model, vocabularies = make_model(5, 3)
    for version in ("1", "2"):
        train(model, [1, 2, 3, 1], [7, 8, 9, 7])
        gm.export_saved_model(model, folder / version, vocabularies)
    return folder


def running(folder, **options):
    server = RestServer(ServedVersions(folder), "films", port=0, **options)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(exports / "1", folder / "1")
    server = running(folder)
    yield server
    server.stop()


def call(connection, method, path, body=None, **headers):
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status, json.loads(text)


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    try:
        return call(connection, method, path, body, **headers)
    finally:
        connection.close()


TASK = {
    "support_item": ["i1", "i3"],
    "support_shop": ["7", "9"],
    "support_genre": ["Drama", "Comédie"],
    "support_liked": [1.0, 0],
    "support_count": 2,
    "query_item": ["i2", "i0", "none"],
    "query_shop": ["8", "7", "123"],
    "query_genre": ["a\nb", "Drama", ""],
}
QUERY = {name: value for name, value in TASK.items() if name.startswith("query")}
PREDICT = "/v1/models/films:predict"


def expected_of(path, tasks, signature="predict"):
    """By TensorFlow itself."""
    call = tf.saved_model.load(str(path)).signatures[signature]
    specs = call.structured_input_signature[1]
    inputs = {n: tf.constant([task[n] for task in tasks], spec.dtype) for n, spec in specs.items()}
    return call(**inputs)["prediction"].numpy()


def test_integers_examples_and_values_given_once(server):
    _, expected = ask(server, "POST", PREDICT, {"instances": [TASK]})
    integers = TASK | {"support_shop": [7, 9], "query_shop": [8, 7, 123]}
    body = {"signature_name": "predict_integers", "instances": [integers]}
    assert ask(server, "POST", PREDICT, body) == (200, expected)
    features = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=values))
        if name == "support_liked"
        else tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode() for v in values]))
        for name, values in TASK.items()
        if name != "support_count"
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    encoded = {"b64": base64.b64encode(example).decode()}
    body = {"signature_name": "predict_examples", "instances": [{"examples": encoded}]}
    assert ask(server, "POST", PREDICT, body) == (200, expected)
    once = {"instances": [TASK | {"query_shop": ["8"]}]}
    repeated = {"instances": [TASK | {"query_shop": ["8"] * 3}]}
    assert ask(server, "POST", PREDICT, once) == ask(server, "POST", PREDICT, repeated)
    status, answer = ask(server, "POST", PREDICT, {"instances": [TASK | {"query_shop": ["8"] * 2}]})
    assert status == 400
    assert "ncompatible shapes" in answer["error"]


def test_predictions_by_task_and_by_input(server, exports):
    tasks = [TASK, TASK | {"support_count": 0}]
    expected = expected_of(exports / "1", tasks)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    status, answer = ask(server, "POST", PREDICT, {"instances": tasks})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)
    columns = {name: [task[name] for task in tasks] for name in TASK}
    body = {"signature_name": "predict", "inputs": columns}
    status, answer = ask(server, "POST", "/v1/models/films/versions/1:predict", body)
    assert (status, list(answer)) == (200, ["outputs"])
    np.testing.assert_allclose(answer["outputs"], expected, rtol=1e-6)
    unadapted = {"signature_name": "predict_unadapted", "instances": [QUERY]}
    status, answer = ask(server, "POST", PREDICT, unadapted)
    np.testing.assert_allclose(
        answer["predictions"], expected_of(exports / "1", [QUERY], "predict_unadapted"), rtol=1e-6
    )
    texts = [{"b64": base64.b64encode(text.encode()).decode()} for text in QUERY["query_item"]]
    unadapted["instances"] = [QUERY | {"query_item": texts}]
    assert ask(server, "POST", PREDICT, unadapted) == (200, answer)


def test_metadata_and_status(server):
    status, answer = ask(server, "GET", "/v1/models/films/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "films", "signature_name": "", "version": "1"}
    predict = answer["metadata"]["signature_def"]["signature_def"]["predict"]
    assert predict["method_name"] == "tensorflow/serving/predict"
    assert set(predict["inputs"]) == set(TASK)
    assert predict["inputs"]["query_item"]["dtype"] == "DT_STRING"
    dims = predict["inputs"]["support_count"]["tensor_shape"]["dim"]
    assert dims == [{"size": "-1", "name": ""}]
    assert ask(server, "GET", "/v1/models/films:metadata") == (200, answer)
    (state,) = ask(server, "GET", "/v1/models/films")[1]["model_version_status"]
    assert (state["version"], state["state"]) == ("1", "AVAILABLE")


WRONG = {
    "no JSON": (b"{", 400, "JSON Parse error: "),
    "deep": (b"[" * 100_000, 400, "JSON Parse error: "),
    "a list": ([], 400, "expected a JSON object, got a list"),
    "nothing": ({}, 400, "expected one of 'instances' and 'inputs'.*got neither"),
    "both": ({"instances": [TASK], "inputs": {}}, 400, "got 'instances', 'inputs'"),
    "no tasks": ({"instances": []}, 400, "'instances' to be a list of at least one"),
    "no object": ({"instances": [3]}, 400, "expected an object with query_genre, .*got a number"),
    "no signature": (
        {"signature_name": "x", "instances": [TASK]},
        400,
        "Serving signature name: 'x' not found in signature def; expected one of predict, ",
    ),
    "signature": ({"signature_name": 3, "instances": [TASK]}, 400, "'signature_name' to be a text"),
    "missing": ({"instances": [TASK, QUERY]}, 400, "element 1 .*'support_count' is missing"),
    "unknown": ({"instances": [TASK | {"x": 1}]}, 400, "'x' is none of them"),
    "number": ({"instances": [TASK | {"query_item": [1, 2, 3]}]}, 400, "expected texts, got a num"),
    "text": (
        {"instances": [TASK | {"support_liked": ["1", 0]}]},
        400,
        "expected numbers, got a te",
    ),
    "truth": ({"instances": [TASK | {"support_liked": [True, 0]}]}, 400, "numbers, got a truth"),
    "infinite": ({"instances": [TASK | {"support_liked": [1e99, 0]}]}, 400, "expected finite fl"),
    "fraction": ({"instances": [TASK | {"support_count": 1.5}]}, 400, "integers, got a number 1.5"),
    "large": ({"instances": [TASK | {"support_count": 2**31}]}, 400, "int32 from -2147483648 to"),
    "base64": ({"instances": [TASK | {"query_item": [{"b64": "*"}] * 3}]}, 400, "expected base64"),
    "ragged": (
        {"instances": [TASK, TASK | {"query_item": ["i1"]}]},
        400,
        "'query_item': expected lists of one length, 2 in one another",
    ),
    "lengths": (
        {"instances": [TASK | {"query_item": ["i1", "i2"]}]},
        400,
        "Expected lists of one length for all of a task's support rows",
    ),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_bodies(server, name):
    body, expected, match = WRONG[name]
    status, answer = ask(server, "POST", PREDICT, body)
    assert (status, list(answer)) == (expected, ["error"])
    assert re.search(match, answer["error"]), answer


@pytest.mark.parametrize(
    ("method", "path", "status", "match"),
    [
        ("POST", "/v1/models/other:predict", 404, "Servable not found for request: other"),
        ("POST", "/v1/models/films/versions/7:predict", 404, "films version 7. Version 1 of films"),
        ("GET", "/v1/models/films:predict", 400, "Malformed request: GET /v1/models/films:predict"),
        ("POST", "/v1/models/films:classify", 400, "Malformed request: POST"),
        ("GET", "/v1/models/", 400, "Malformed request"),
        ("GET", "/", 404, "Malformed request: GET /"),
        ("DELETE", "/v1/models/films", 501, "Unsupported method"),
    ],
)
def test_wrong_paths(server, method, path, status, match):
    found, answer = ask(server, method, path, {"instances": [TASK]})
    assert found == status
    assert match in answer["error"]


@pytest.mark.parametrize(
    ("length", "status", "match"),
    [
        (None, 411, "expected Content-Length"),
        ("x", 400, "to be a number, got 'x'"),
        (str(1 << 40), 413, "expected a body of at most 67108864 bytes"),
    ],
)
def test_wrong_lengths(server, length, status, match):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest("POST", PREDICT)
    if length is not None:
        connection.putheader("Content-Length", length)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == status
    assert match in json.loads(answer.read())["error"]
    connection.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_ends_where_the_client_wants_it(server, version):
    body = json.dumps({"instances": [TASK]}).encode()
    close = "Connection: close\r\n" if version == "1.1" else ""
    head = f"POST {PREDICT} HTTP/{version}\r\n{close}Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while part := connection.recv(1 << 16):  # until the server ends it
            answer += part
    assert b" 200 OK\r\n" in answer
    assert "predictions" in json.loads(answer.partition(b"\r\n\r\n")[2])


@pytest.mark.slow
def test_no_request_is_lost_or_wrong_while_versions_change(exports, tmp_path):
    tasks = [
        TASK | {"query_item": [f"i{item % 5}", "i1", "none"], "support_count": item % 3}
        for item in range(20)
    ]
    of_version = [expected_of(exports / name, tasks) for name in ("1", "2")]
    assert np.abs(of_version[0] - of_version[1]).min() > 1e-5
    shutil.copytree(exports / "1", tmp_path / "films" / "1")
    server = running(tmp_path / "films")
    server.look_every(0.05)
    each = NUM_REQUESTS // NUM_CLIENTS
    answered, faults = [[] for _ in range(NUM_CLIENTS)], []
    middle = threading.Barrier(NUM_CLIENTS + 1)

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        for request in range(each):
            if request == each // 3:
                middle.wait()
            if request == each - 1:
                changed.wait(60)
            task = (number * each + request) % len(tasks)
            status, answer = call(connection, "POST", PREDICT, {"instances": [tasks[task]]})
            close = [
                bool(np.allclose(answer.get("predictions"), one[task], rtol=1e-6, atol=1e-7))
                for one in of_version
            ]
            if status != 200 or sum(close) != 1:
                faults.append((status, answer))
            answered[number].append(close.index(True) + 1 if any(close) else 0)
        connection.close()

    changed = threading.Event()
    clients = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
    for one in clients:
        one.start()
    middle.wait()
    shutil.copytree(exports / "2", tmp_path / ".2-hidden")
    (tmp_path / ".2-hidden").rename(tmp_path / "films" / "2")
    while server.versions.current.number != 2:
        pass
    changed.set()
    for one in clients:
        one.join(120)
    server.stop()
    assert not faults
    assert sum(map(len, answered)) == each * NUM_CLIENTS
    for versions in answered:
        assert versions == sorted(versions)
        assert (versions[0], versions[-1]) == (1, 2)


def test_what_is_not_whole_is_passed_over(exports, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    shutil.copytree(exports / "1", tmp_path / "1")
    versions = ServedVersions(tmp_path)
    damaged = shutil.copytree(exports / "2", tmp_path / "2")
    content = bytearray((damaged / "variables" / "variables.index").read_bytes())
    content[9] ^= 1
    (damaged / "variables" / "variables.index").write_bytes(content)
    assert "damaged or incomplete" in versions.look()[0]
    assert versions.look() == []  # it is said once
    assert versions.current.number == 1
    shutil.copytree(exports / "2", tmp_path / "3")
    assert versions.look() == []
    assert versions.current.number == 3
    shutil.rmtree(tmp_path / "1")
    shutil.rmtree(tmp_path / "3")
    versions.look()
    assert versions.current.number == 3  # what is served goes on
    with pytest.raises(ValueError, match="damaged or incomplete"):
        ServedVersions(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no exported model"):
        ServedVersions(tmp_path / "2" / "variables")


def test_an_export_that_is_replaced_is_served(exports, tmp_path):
    shutil.copytree(exports / "1", tmp_path / "saved")
    shutil.copytree(exports / "2", tmp_path / "next")
    versions = ServedVersions(tmp_path / "saved")
    before = versions.current
    versions.look()
    assert versions.current is before
    (tmp_path / "saved").rename(tmp_path / "old")
    (tmp_path / "next").rename(tmp_path / "saved")
    versions.look()
    assert versions.current is not before


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(exports):
    words = ["serve", "--saved-model", str(exports), "--name", "films", "--port", "0"]
    program = "import sys; from gmeta_tf.cli.main import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[3],
    )
    try:
        line = process.stdout.readline()
        assert line.startswith(f"serving version 2 of {exports} at http://127.0.0.1:")
        port = int(line.rsplit(":", 1)[1].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        status, _ = call(connection, "POST", PREDICT, {"instances": [TASK]})
        connection.close()
        assert status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_taken_port_is_told(server, exports, capsys):
    words = ["serve", "--saved-model", str(exports), "--port", str(server.server_port)]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "expected a free --port on --host 127.0.0.1: Address already in use" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        cli.main([*words[:-1], "70000"])
    assert "expected --port of at least 0 and below 65536, got 70000" in capsys.readouterr().err
