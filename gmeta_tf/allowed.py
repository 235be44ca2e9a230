"""The words that options take: each option's once, for the library and the command line alike."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["check_word"]

# Records.
ENGINES = ("duckdb", "spark")
SPLITS_BY = ("task", "time", "both")
COMPRESSIONS = ("none", "zlib")
ON_BAD_ROW = ("error", "drop")
FIELD_KINDS = ("categorical", "multi", "dense")
DENSE_TRANSFORMS = ("none", "standardize", "log1p", "minmax", "bucketize")
MISSING = ("error", "mean", "indicator")
KEYS = ("vocabulary", "hash", "raw")
TIME_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds", "none")
FILE_FORMATS = ("csv", "tsv")
QUOTINGS = ("minimal", "none")
LAYOUTS = (
    "movielens",
    "movielens-10m",
    "movielens-csv",
    "amazon-2023",
    "amazon-json",
    "book-crossing",
    "yelp",
    "kuairand",
    "mind",
    "avazu",
    "criteo",
    "tenrec",
    "lastfm-2k",
    "lastfm-360k",
    "lastfm-1k",
    "douban",
    "user-item-rating",
    "ali-ccp",
    "taobao-ads",
)
_OF_AVAZU = ("device_ip", "device_id", "site_id", "app_id")
TASKS_OF_LAYOUTS = {
    "avazu": _OF_AVAZU,
    "criteo": tuple(f"C{number}" for number in range(1, 27)),
}
"""A layout whose task is a column of one's choice -> those that it may be."""
LAYOUTS_WITHOUT_A_TASK = ("criteo",)
"""Of those the ones that propose none."""
ENCODINGS = ("utf-8", "latin-1", "utf-16")

# Tables.
BACKENDS = ("auto", "horovod", "sok")
EXCHANGES = ("auto", "flat", "by-host")
WIRES = ("float32", "bfloat16", "float16")
ROW_OPTIMIZERS = ("sgd", "adagrad", "row_wise_adagrad", "lazy_adam", "ftrl")
WHEN_FULL = ("evict", "default", "error")
UNKNOWN_IN_TRAINING = ("insert", "default", "bucket", "error")
UNKNOWN_OTHERWISE = ("default", "bucket", "error")

# Both loops.
OVERLAPS = ("adapted", "stale")
ADAPT_DENSE = ("all", "none", "last_layer")
LEARNED_RATES = ("variables", "parameters")
OUTER_GRADIENTS = ("query_loss", "reptile")
FAST_WEIGHTS = ("auto", "low_rank", "stacked", "vectorized")
LOSSES = {
    "binary_crossentropy": "binary_crossentropy",
    "bce": "binary_crossentropy",
    "BCE": "binary_crossentropy",
    "BinaryCrossentropy": "binary_crossentropy",
    "mean_squared_error": "mean_squared_error",
    "mse": "mean_squared_error",
    "MSE": "mean_squared_error",
    "MeanSquaredError": "mean_squared_error",
    "ratings": "ratings",
}
"""A name of a loss, Keras's included -> the name that it has here."""
NON_FINITE = ("raise", "skip")

# The command line alone.
LEARNERS = ("melu", "maml_dlrm", "mmaml", "cbml", "factors", "dlrm")
DECAYS = ("none", "cosine")
KEYS_FROM = ("records", "uniform")
REPLICATE: dict[str, str | bool] = {"auto": "auto", "always": True, "never": False}
"""A word of `--replicate` -> what `ShardedEmbedding` takes."""


def replicate_of(text: str) -> str | bool | frozenset[str]:
    """What `ShardedEmbedding` takes for `--replicate`: a word's, or names with commas between.

    >>> replicate_of("always"), sorted(replicate_of("genre,year"))
    (True, ['genre', 'year'])
    """
    return REPLICATE[text] if text in REPLICATE else frozenset(text.split(","))


def check_layout_task(option: str, layout: str, task: str | None, has_schema: bool) -> None:
    """Raises when the task of a published data set is not to be chosen so.

    Args:
        option: what the message calls the choice.
        layout: one of `LAYOUTS`.
        task: the column that was chosen, or None.
        has_schema: whether a schema of one's own takes the place of the layout's.

    Raises:
        ValueError: a column that the layout does not offer, none where it proposes none, or one
            beside a schema, which names its own.
    """
    offered = TASKS_OF_LAYOUTS.get(layout, ())
    if task is not None and has_schema:
        raise ValueError(
            f"{option} {task} chooses the task of a layout's own schema, and the schema that is "
            "given names its task. Leave one of them out."
        )
    if task is not None and not offered:
        raise ValueError(
            f"{option} is for the layouts {', '.join(TASKS_OF_LAYOUTS)}, got {task!r} with the "
            f"layout {layout!r}, which has its task. Leave it out."
        )
    if task is not None:
        check_word(option, task, offered)
    if task is None and not has_schema and layout in LAYOUTS_WITHOUT_A_TASK:
        raise ValueError(
            f"the layout {layout!r} names no user or other task: expected {option} with a column "
            f"of {offered[0]} to {offered[-1]} whose values are to be the tasks, got none."
        )


def check_word(option: str, value: object, allowed: Collection[str], remedy: str = "") -> None:
    """Raises when an option has another value than its words.

    >>> check_word("train: --wire", "float8", WIRES)
    Traceback (most recent call last):
    ValueError: train: expected --wire to be one of float32, bfloat16, float16, got 'float8'.

    Args:
        option: whose it is and its name, with a colon between.
        value: what was given.
        allowed: the words.
        remedy: what else to say; a sentence.

    Raises:
        ValueError: another value; says what was expected and what was given.
    """
    if value not in allowed:
        owner, _, name = option.rpartition(": ")
        raise ValueError(
            f"{owner + ': ' if owner else ''}expected {name} to be one of {', '.join(allowed)}, "
            f"got {value!r}.{' ' + remedy if remedy else ''}"
        )
