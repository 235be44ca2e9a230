"""`gmeta-tf schema init`: a schema to begin with, from a sample of the files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

import duckdb
import yaml

from gmeta_tf.cli.options import SchemaOptions
from gmeta_tf.meta_io.sources.reader_options import ReaderOptions
from gmeta_tf.meta_io.sources.sample import ColumnProfile, Sample, profiles_of, sample_of
from gmeta_tf.meta_io.sql import sql_name, trimmed
from gmeta_tf.meta_io.time_units import NO_UNIT, TICKS, plausible_span, span_text

__all__ = ["draft", "schema"]

_TASKS = r"user|uid|member|customer|reviewer|visitor|account|client|advertiser|scenario|session"
_LABELS = r"rating|label|click|clicked|stars|score|like|liked|target|purchase|conversion|is_click"
_TIMES = r"time|timestamp|date|datetime|ts|when|created|at|day|hour"
_ITEMS = r"item|movie|film|book|isbn|product|asin|article|news|song|artist|video|ad|business"
_FEW = 20
_MANY_KEYS = 100_000


def schema(options: SchemaOptions) -> None:
    """`gmeta-tf schema init`.

    Raises:
        FileNotFoundError: no such file, or no folder for the output.
        ValueError: a file cannot be read, has one column, or the output exists.
    """
    if options.output is not None and os.path.exists(options.output):
        raise ValueError(f"{options.output} exists. Remove it, or choose another --output.")
    with tempfile.TemporaryDirectory(prefix="gmeta-tf-schema-") as folder:
        samples = [
            sample_of(path, pathlib.Path(folder), options.separator, options.encoding)
            for path in options.files
        ]
        beside = os.path.dirname(os.path.abspath(options.output)) if options.output else os.getcwd()
        text = draft(samples, beside)
    if options.output is None:
        print(text, end="")
        return
    pathlib.Path(options.output).write_text(text, encoding="utf-8")
    print(
        f"{options.output}: look it over, then `gmeta-tf check --schema {options.output} --input"
        f" {options.files[0]}`"
    )


def draft(samples: Sequence[Sample], beside: str) -> str:
    """The YAML of a schema, with comments.

    Args:
        samples: of the log, and of tables to join.
        beside: the folder that paths are to be relative to.

    Raises:
        ValueError: the log has no rows, or one column alone.
    """
    log, *others = samples
    profiles = profiles_of(log)
    if len(profiles) < 2 or not profiles[0].rows:
        raise ValueError(
            f"{log.path}: expected rows of several columns, got {profiles[0].rows} of "
            f"{', '.join(one.name for one in profiles)}. Say how it is written: --separator "
            "SEPARATOR."
        )
    joins = [found for other in others if (found := _join(log, profiles, other, beside))]
    roles = _roles(profiles, {join.on for join in joins})
    read = "all" if log.is_whole else "the first"
    lines = [
        f"# From {read} {profiles[0].rows:,} rows of {os.path.basename(log.path)}. Every line is a "
        "guess: look it over,",
        "# then run `gmeta-tf check` with it. docs/data.md and docs/architecture.md tell the rest.",
        *_role(roles, "task", "what adapts: a task's rows are those of one value"),
        *_role(roles, "label", "what is to be predicted, a number"),
        *_positive(roles),
        *_role(roles, "time", "a task's rows are in this order"),
        "fields:",
    ]
    chosen = {profile.name for profile in roles.values()}
    lines += [_field(profile) for profile in profiles if profile.name not in chosen]
    lines += [line for join in joins for line in join.fields]
    if joins:
        lines += ["tables_to_join:", *(join.line for join in joins)]
    large = [one for one in profiles if one.name not in chosen and one.distinct > _MANY_KEYS]
    if large:
        lines += ["# tables:   # hashed keys, where the vocabulary would be too large"]
        lines += [
            f"#   - {{name: {_name(one.name)}, keys: hash, num_rows: 1000000}}" for one in large
        ]
    nulls = sorted({word for one in profiles for word in one.null_words})
    options = dataclasses.replace(log.options, null_words=tuple(nulls))
    if not options.is_default:
        lines += [f"read: {_flow(_of_options(options))}"]
    return "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class _Joined:
    on: str
    line: str
    fields: tuple[str, ...]


def _roles(profiles: Sequence[ColumnProfile], joined_on: set[str]) -> dict[str, ColumnProfile]:
    """The likely task, label and time; what is not found is left out."""
    roles: dict[str, ColumnProfile] = {}
    free = list(profiles)

    def take(role: str, found: Sequence[ColumnProfile]) -> None:
        if found:
            roles[role] = found[0]
            free.remove(found[0])

    take("time", [one for one in free if _is_time(one) and _is_called(one, _TIMES)])
    if "time" not in roles:
        take("time", [one for one in free if _is_time(one) and one.distinct > _FEW])
    numbers = [one for one in free if one.numbers == 1.0 and not _is_called(one, _TASKS)]
    take("label", [one for one in numbers if _is_called(one, _LABELS)])
    if "label" not in roles:
        take("label", [one for one in reversed(numbers) if 2 <= one.distinct <= _FEW])
    ids = [one for one in free if one.distinct > 1 and not one.is_list and one.parts is None]
    take("task", [one for one in ids if _is_called(one, _TASKS)])
    if "task" not in roles:
        repeated = [
            one
            for one in ids
            if 2 * one.distinct <= one.rows and not _is_called(one, _ITEMS) and one.letters < 40
        ]
        take("task", sorted(repeated, key=lambda one: -one.distinct))
    return roles


def _role(roles: dict[str, ColumnProfile], role: str, what: str) -> list[str]:
    if role in roles:
        one = roles[role]
        told = _told(one) if role != "time" else _times_told(one)
        return [f"{role}: {_name(one.name)}   # {what}. {told}"]
    if role == "time":
        return ["# time: COLUMN   # none was found: rows are in the order of the file"]
    return [f"{role}: CHOOSE_A_COLUMN   # {what}; none was found"]


def _positive(roles: dict[str, ColumnProfile]) -> list[str]:
    label = roles.get("label")
    if label is None or label.smallest is None or label.largest is None:
        return []
    if label.smallest >= 0 and label.largest <= 1:
        return []
    middle = label.smallest + 0.75 * (label.largest - label.smallest)
    return [
        f"positive_from: {middle:g}   # labels from here on are 1, others 0; leave it out to "
        "predict the number (--loss mse)"
    ]


def _field(one: ColumnProfile, *, may_miss: bool = False) -> str:
    """A line of `fields`; a comment where the column is of no use as it is.

    Args:
        one: the column.
        may_miss: whether rows may have no value although the sample has all: those that a table
            has nothing for.
    """
    values: dict[str, object] = {"name": one.name}
    told = _told(one)
    if one.distinct <= 1:
        return f"  # - {_flow(values)}   # one value alone. {told}"
    if one.letters > 40 and one.distinct > 0.5 * one.rows:
        return f"  # - {_flow(values)}   # free text, a value for each row. {told}"
    if one.parts is not None or one.is_list:
        values |= {"kind": "multi", "max_values": 8}
        if one.parts not in (None, "|"):
            values["separator"] = one.parts
    elif _is_dense(one):
        values |= {"kind": "dense", "transform": _transform(one)}
        if one.missing or may_miss:
            values["missing"] = "mean"
    return f"  - {_flow(values)}   # {told}"


def _is_dense(one: ColumnProfile) -> bool:
    is_id = re.search(r"(^|_)id$|^id", one.name.lower()) or _is_called(one, f"{_TASKS}|{_ITEMS}")
    if one.numbers < 1.0 or is_id or one.distinct <= _FEW:
        return False
    return one.integers < 1.0 or _is_called(one, "age|year|price|count|cnt|num|amount|views|hours")


def _transform(one: ColumnProfile) -> str:
    low, high, middle = one.smallest or 0.0, one.largest or 0.0, one.median or 0.0
    return "log1p" if low >= 0 and high > 20 * max(middle, 1e-9) else "standardize"


def _join(
    log: Sample, profiles: Sequence[ColumnProfile], other: Sample, beside: str
) -> _Joined | None:
    """How a table joins the log: by the column whose values the log's are, or a comment."""
    columns = profiles_of(other)
    best, share = None, 0.0
    for mine in profiles:
        for one in columns:
            if one.is_list or mine.is_list or one.distinct < 2:
                continue
            found = _found_share(log, mine.name, other, one.name)
            # A key is unique, or else a line a value; and alike names go before.
            alike = 0.2 * (mine.name.lower() == one.name.lower())
            unique = 0.3 * (one.distinct == one.rows - one.missing)
            few = 0.5 * (one.distinct <= 5)
            if found > 0.5 and found + alike + unique - few > share:
                best, share = (mine, one, found), found + alike + unique - few
    name = re.sub(r"\W+", "_", os.path.basename(other.path).split(".")[0])
    path = os.path.relpath(other.path, beside)
    if best is None:
        return None
    mine, key, found = best
    values: dict[str, object] = {"path": path, "on": mine.name}
    if key.name != mine.name:
        values["key"] = key.name
    rest = [one for one in columns if one.name != key.name]
    taken = {one.name.lower() for one in profiles}
    if len(rest) == 1 and _has_several(other, key.name, rest[0].name):
        values["many"] = rest[0].name
        fields = [f"  - {_flow({'name': rest[0].name, 'kind': 'multi', 'max_values': 8})}"]
    else:
        renamed = {
            (one.name if one.name.lower() not in taken else f"{name}_{one.name}"): one
            for one in rest
            if not (one.letters > 40 and one.distinct > 0.5 * one.rows)
        }
        values["columns"] = {new: one.name for new, one in renamed.items()}
        fields = [
            _field(dataclasses.replace(one, name=new), may_miss=True)
            for new, one in renamed.items()
        ]
    if not other.options.is_default:
        values["read"] = _of_options(other.options)
    told = f"{found:.0%} of the sampled values of {mine.name} are in it"
    line = f"  {_name(name)}: {_flow(values)}   # {told}"
    return _Joined(mine.name, line, tuple(fields))


def _has_several(other: Sample, key: str, column: str) -> bool:
    """Whether some key of a table has several values of a column."""
    with contextlib.closing(duckdb.connect()) as database:
        several = database.execute(
            f"SELECT count(*) FROM (SELECT {trimmed(sql_name(key))} AS key FROM "
            f"({other.source.query}) GROUP BY 1 HAVING count(DISTINCT {sql_name(column)}) > 1)"
        ).fetchall()[0][0]
    return bool(several)


def _found_share(log: Sample, mine: str, other: Sample, key: str) -> float:
    """The share of the log's distinct values of a column that a column of a table has."""
    with contextlib.closing(duckdb.connect()) as database:
        counts = database.execute(
            f"SELECT count(*), count(*) FILTER (value IN (SELECT {trimmed(sql_name(key))} FROM "
            f"({other.source.query}))) FROM (SELECT DISTINCT {trimmed(sql_name(mine))} AS value "
            f"FROM (SELECT * FROM ({log.source.query}) LIMIT 20000)) WHERE value IS NOT NULL"
        ).fetchall()[0]
    return float(counts[1] / counts[0]) if counts[0] else 0.0


def _is_called(one: ColumnProfile, words: str) -> bool:
    parts = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", one.name).lower())
    return any(re.fullmatch(f"(?:{words})s?(?:id)?", part) for part in parts)


def _is_time(one: ColumnProfile) -> bool:
    if one.times > 0.9:
        return True
    low, high = one.smallest or 0.0, one.largest or 0.0
    is_since_1970 = any(3e8 * unit < low and high < 3e9 * unit for unit in (1, 1e3, 1e6, 1e9))
    is_called = one.numbers == 1.0 and _is_called(one, "time|timestamp|ts")
    return (one.integers == 1.0 and is_since_1970) or is_called


def _told(one: ColumnProfile) -> str:
    values = f"{one.distinct:,} values"
    if one.numbers == 1.0 and one.smallest is not None:
        values += f" from {one.smallest:.10g} to {one.largest:.10g}"
    elif one.examples:
        values += f" such as {', '.join(example[:20] for example in one.examples)}"
    if one.missing:
        values += f", {one.missing / one.rows:.1%} missing"
    return values.replace("\n", " ")


def _times_told(one: ColumnProfile) -> str:
    """The unit of a time and its span, as `prepare` tells them."""
    if one.first_time is not None and one.last_time is not None and one.times > 0.9:
        return f"dates, {one.first_time[:10]} to {one.last_time[:10]}"
    if one.smallest is None or one.largest is None:
        return _told(one)
    ends = (one.smallest, one.largest)
    for unit in TICKS:
        first, last = plausible_span(unit)
        if first <= ends[0] and ends[1] <= last:
            return span_text(unit, *ends)
    return span_text(NO_UNIT, *ends)


def _of_options(options: ReaderOptions) -> dict[str, object]:
    usual = ReaderOptions()
    return {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(options)
        if (value := getattr(options, field.name)) != getattr(usual, field.name)
    }


def _flow(values: dict[str, object]) -> str:
    """YAML in braces, in one line."""
    text = yaml.safe_dump(
        values, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    # To YAML 1.1 `on` is a truth value, and is put in quotes; here it is a name like others.
    return text.strip().replace("'on': ", "on: ")


def _name(name: str) -> str:
    return yaml.safe_dump([name], default_flow_style=True, allow_unicode=True).strip()[1:-1]
