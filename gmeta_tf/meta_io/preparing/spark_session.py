"""A session of Apache Spark, and DuckDB's SQL run in its tasks."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import duckdb

__all__ = ["heap_bytes", "run_in_tasks", "spark_session", "told_of_spark"]

# Spark refuses a smaller heap, by a little.
_LEAST_HEAP_BYTES = 512 << 20
_LEAST_TASK_BYTES = 128 << 20
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_REMEDY = (
    "Install it with pip install 'gmeta_tf[spark]' and Java 17 (on Debian: apt-get install "
    "openjdk-17-jre-headless), or leave out engine='spark'."
)
_TRACEBACK = "Traceback (most recent call last):"
# At a root level that is not "warn" Spark tells on stderr how to change it.
_QUIET = """
rootLogger.level = warn
rootLogger.appenderRef.errors.ref = errors
appender.errors.type = Console
appender.errors.name = errors
appender.errors.target = SYSTEM_ERR
appender.errors.layout.type = PatternLayout
appender.errors.layout.pattern = Spark: %m%n
appender.errors.filter.level.type = ThresholdFilter
appender.errors.filter.level.level = error
"""


@contextlib.contextmanager
def spark_session(spill_folder: pathlib.Path, heap: int) -> Iterator[Any]:
    """A session of the Spark that runs in this process, else of one that is started and stopped.

    Which Spark is started is what Spark's own settings say (`spark-submit --master ...`,
    `PYSPARK_SUBMIT_ARGS`, `SPARK_CONF_DIR`); without any it is this machine with all its cores.

    Args:
        spill_folder: where one that is started puts what does not fit into memory, on this
            machine.
        heap: the bytes of one that is started, unless a setting of Spark's says another number.

    Raises:
        ImportError: there is no pyspark.
        OSError: there is no Java, or Spark does not start.
    """
    try:
        from pyspark import SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ImportError(f"the engine 'spark' needs pyspark, got: {error}. {_REMEDY}") from error
    if SparkContext._active_spark_context is not None:
        yield _own_settings(SparkSession.builder.getOrCreate())
        return
    # spark-submit begins with Java, whose process is then not this one's to end.
    is_ours = SparkContext._gateway is None and "PYSPARK_GATEWAY_PORT" not in os.environ
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=os.path.join(home, "bin") if home else None) is None:
        where = f"in JAVA_HOME={home}" if home else "on PATH, and no JAVA_HOME"
        raise FileNotFoundError(f"the engine 'spark' needs Java, got none {where}. {_REMEDY}")
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-spark-") as settings:
        quiet = pathlib.Path(settings) / "log4j2.properties"
        quiet.write_text(_QUIET)
        builder = (
            SparkSession.builder.appName("gmeta-tf prepare")
            .config("spark.driver.defaultJavaOptions", f"-Dlog4j2.configurationFile=file:{quiet}")
            .config("spark.local.dir", str(spill_folder))
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
        )
        defaults = {"PYSPARK_PYTHON": sys.executable, "SPARK_DRIVER_MEMORY": f"{heap >> 20}m"}
        try:
            with _environment(defaults):
                session = builder.getOrCreate()
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise OSError(f"Spark does not start: {reason} {_REMEDY}") from error
    try:
        yield _own_settings(session)
    finally:
        session.stop()
        if is_ours:
            _end_java(SparkContext)


def _end_java(context: Any) -> None:
    """Ends the Java process, whose memory and local folder the next session could not change."""
    gateway = context._gateway
    gateway.shutdown()
    # It ends when its input does.
    gateway.proc.stdin.close()
    gateway.proc.wait()
    context._gateway = context._jvm = None


def _own_settings(session: Any) -> Any:
    """A session beside another one, where a setting of the user's cannot lose rows in silence."""
    own = session.newSession()
    own.conf.set("spark.sql.adaptive.enabled", "true")
    own.conf.set("spark.sql.files.ignoreCorruptFiles", "false")
    own.conf.set("spark.sql.files.ignoreMissingFiles", "false")
    return own


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Sets the variables that are not set, for a while."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def heap_bytes(database: duckdb.DuckDBPyConnection) -> int:
    """Takes half of a database's memory limit from it, for Spark."""
    shown = database.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    number, unit = re.fullmatch(r"([0-9.]+) (\w+)", shown).groups()  # type: ignore[union-attr]
    half = int(float(number) * _UNITS[unit] / 2)
    database.execute(f"SET memory_limit='{half} bytes'")
    return max(_LEAST_HEAP_BYTES, half)


def run_in_tasks(
    session: Any,
    commands: Sequence[Sequence[tuple[str, str]]],
    spill_folder: pathlib.Path,
    memory_bytes: int,
) -> list[list[Any]]:
    """Runs DuckDB's SQL, a task for each sequence of commands.

    Tasks need Python with DuckDB, and nothing of gmeta_tf.

    Args:
        session: of Spark.
        commands: for each task the queries, and the Parquet file that each one's rows are written
            to, or "" to give them back.
        spill_folder: where tasks put what does not fit into memory.
        memory_bytes: what all tasks may take together.

    Returns:
        For each task the rows of each query; of a file, how many it has.

    Raises:
        duckdb.Error: what DuckDB raised, of the first task that failed.
        OSError: no DuckDB, or another one than here, where the tasks run; a task did not write.
    """
    at_once = max(1, min(session.sparkContext.defaultParallelism, len(commands)))
    is_local = session.sparkContext.master.startswith("local")
    threads = session.sparkContext.defaultParallelism // at_once if is_local else 1
    settings = [
        "SET TimeZone='UTC'",
        "SET preserve_insertion_order=true",
        f"SET threads={threads}",
        f"SET memory_limit='{max(_LEAST_TASK_BYTES, memory_bytes // at_once)} bytes'",
    ]
    tasks = session.sparkContext.parallelize(list(enumerate(commands)), len(commands))
    with told_of_spark():
        done = tasks.map(_task(settings, str(spill_folder))).collect()
    for error, found in done:
        if error == "ImportError":
            raise OSError(
                f"a task of Spark's has no DuckDB: {found}. Install duckdb=={duckdb.__version__} "
                "there, or set PYSPARK_PYTHON to a Python that has it."
            )
        if error:
            raise getattr(duckdb, error, duckdb.Error)(found)
        if found["version"] != duckdb.__version__:
            raise OSError(
                f"expected Spark's tasks to have DuckDB {duckdb.__version__} as this process, got "
                f"{found['version']}. Give both the same, as they may read texts differently."
            )
    for path in (path for of_task in commands for _, path in of_task if path):
        if not os.path.isfile(path):
            raise OSError(
                f"a task of Spark's wrote {path}, but it is not here: expected a folder that all "
                "machines share. Pass one as spill_folder."
            )
    return [found["rows"] for _, found in done]


def _task(settings: Sequence[str], spill_folder: str) -> Callable[[Any], tuple[str, Any]]:
    # A function in a function goes to the tasks as it is. One of the module would have them import
    # gmeta_tf, and TensorFlow with it.
    def run(task: tuple[int, Sequence[tuple[str, str]]]) -> tuple[str, Any]:
        import os
        import sys
        import uuid

        try:
            import duckdb
        except ImportError as error:
            return "ImportError", f"{error} ({sys.executable})"
        name = f"{task[0]}-{uuid.uuid4()}"
        with duckdb.connect() as database:
            try:
                spilled = os.path.join(spill_folder, f"task-{name}").replace("'", "''")
                for setting in (*settings, f"SET temp_directory='{spilled}'"):
                    database.execute(setting)
                rows = []
                for query, path in task[1]:
                    if not path:
                        rows.append(database.execute(query).fetchall())
                        continue
                    # Spark may run a task twice, even at once: each has a file of its own.
                    written = f"{path}.{name}"
                    quoted = written.replace("'", "''")
                    copied = f"COPY ({query}) TO '{quoted}' (FORMAT parquet)"
                    rows.append(database.execute(copied).fetchall()[0][0])
                    os.replace(written, path)
            except duckdb.Error as error:
                return type(error).__name__, str(error)
        return "", {"rows": rows, "version": duckdb.__version__}

    return run


@contextlib.contextmanager
def told_of_spark() -> Iterator[None]:
    """What Spark raises becomes an OSError with its first cause, a full disk for example."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException) as error:
        raise OSError(f"Spark failed: {_cause_in(str(error))}") from error


def _cause_in(text: str) -> str:
    """The line that says what went wrong, of what Spark tells in many."""
    lines = [line for line in text.splitlines() if line.strip()]
    # In a task's Python: the first line behind a traceback, whose own lines are indented.
    tracebacks = [i for i, line in enumerate(lines) if line.endswith(_TRACEBACK)]
    for line in lines[tracebacks[-1] + 1 :] if tracebacks else []:
        if not line.startswith(" "):
            return line
    causes = [line.strip() for line in lines if line.strip().startswith("Caused by: ")]
    return causes[-1] if causes else " ".join(line.strip() for line in lines[:2])
