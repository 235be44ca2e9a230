"""The `gmeta-tf` command.

gmeta-tf prepare --movielens download --output records
gmeta-tf train --records records --run run                     # one process
gmeta-tf launch -np 2 -- gmeta-tf train --records records --run run    # two ranks on this machine
gmeta-tf launch -H host1:1,host2:1 -- gmeta-tf train --records records --run run
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import (
    ActionConfigFile,
    ActionYesNo,
    ArgumentParser,
    set_loader,
)

from gmeta_tf.cli import first_checks, options
from gmeta_tf.cli.endings import leave_at_once, quiet_endings
from gmeta_tf.cli.gone_files import gone_file
from gmeta_tf.cli.help_pages import (
    GROUPS,
    CommandsParser,
    HelpFormatter,
    help_for_people,
    usage_of,
)
from gmeta_tf.cli.number_flags import wrong_number
from gmeta_tf.cli.shortages import is_out_of_memory, probable_shortage, shortage_of
from gmeta_tf.cli.yaml_file import flags_of
from gmeta_tf.distributed.lost_ranks import LostRankError, is_of_lost_rank
from gmeta_tf.distributed.world import World

__all__ = ["main"]

_EPILOG = """from raw data to predictions:
  gmeta-tf prepare --movielens download --output records
  gmeta-tf inspect records
  gmeta-tf plan --records records --world-size 2
  gmeta-tf doctor
  gmeta-tf launch -np 2 -- gmeta-tf train --records records --run run
  gmeta-tf evaluate --run run
  gmeta-tf report --run run
  gmeta-tf export --run run
  gmeta-tf play --saved-model run/saved_model
  gmeta-tf serve --saved-model run/saved_model
  gmeta-tf predict --saved-model run/saved_model \\
      --support known.csv --query asked.csv --output predicted.csv

with data of your own, in place of the first line:
  gmeta-tf schema init log.csv --output schema.yaml
  gmeta-tf check --schema schema.yaml --input log.csv
  gmeta-tf prepare --schema schema.yaml --input log.csv --output records

Each subcommand takes --config FILE.yaml with the same names as its flags, and
--print_config, which prints such a file. Flags behind --config override it."""

_EXPECTED = (ValueError, OSError, ImportError, LostRankError)
_COMMANDS = {
    "schema": (options.SchemaOptions, "a schema to begin with, from a sample of the files"),
    "check": (options.CheckOptions, "what is likely to go wrong with data"),
    "prepare": (options.PrepareOptions, "raw tables to task records"),
    "inspect": (options.InspectOptions, "what is in records, and whether it is damaged"),
    "plan": (options.PlanOptions, "the memory and traffic of a number of ranks"),
    "train": (options.TrainOptions, "meta-train, alone or under launch or horovodrun"),
    "launch": (options.LaunchOptions, "start ranks on one host or many, and keep them up"),
    "doctor": (options.DoctorOptions, "what of this machine would slow or stop training"),
    "evaluate": (options.EvaluateOptions, "evaluate a run on unseen tasks"),
    "report": (options.ReportOptions, "a run as a page for the browser"),
    "candidates": (options.CandidatesOptions, "the items to ask a new task about"),
    "export": (options.ExportOptions, "a run to a SavedModel"),
    "apply-delta": (options.ApplyDeltaOptions, "a SavedModel and a delta to the next version"),
    "serve": (options.ServeOptions, "a SavedModel behind TensorFlow Serving's REST API"),
    "predict": (options.PredictOptions, "raw rows through a SavedModel"),
    "play": (options.PlayOptions, "be the cold-start user of a SavedModel, in the browser"),
}

_FIRST_CHECKS: dict[str, Callable[[Any], None]] = {
    "prepare": first_checks.check_prepare,
    "train": first_checks.check_train,
    "evaluate": first_checks.check_run,
    "report": first_checks.check_report,
    "candidates": first_checks.check_run,
    "export": first_checks.check_run,
    "predict": first_checks.check_predict,
    "play": first_checks.check_play,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs the subcommand.

    Args:
        arguments: the words after `gmeta-tf`; None takes the process's, which then is this
            command's alone, and ends at once where memory has ended.

    Raises:
        SystemExit: 2 for a wrong command line, 1 for bad input, with the message on stderr; 130
            after Ctrl-C.
    """
    with quiet_endings():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    words, ranks_command = _without_command(words)
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(2)
    named = next((word for word in words if word in _COMMANDS), None)
    if named and (problem := wrong_number(words, _COMMANDS[named][0])):
        parser.commands[named].error(problem)
    # Notices of how TensorFlow was built are not about what was asked for; failures still are told.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parsed = parser.parse_args(words)
    name = parsed.subcommand
    try:
        chosen = parsed[name]
        values = {key: value for key, value in vars(chosen).items() if key != "config"}
        if ranks_command:
            values["command"] = ranks_command
        command_options = _COMMANDS[name][0](**values)
        if name in _FIRST_CHECKS:
            _FIRST_CHECKS[name](command_options)
        # TensorFlow is imported here and not before, so that --help and errors come at once.
        module = name.replace("-", "_")
        command: Any = importlib.import_module(f"gmeta_tf.cli.{module}")
        getattr(command, module)(command_options)
    except BrokenPipeError:
        raise  # an output that nobody reads on is no bad input
    except Exception as error:
        told = shortage_of(error) or gone_file(error)
        if is_of_lost_rank(error):  # in a collective of the command's own
            told = str(LostRankError(World.detect()))
        if told is None and not isinstance(error, _EXPECTED):
            told = probable_shortage(error)
            if told is None:
                raise
        elif told is None:
            # Options name their command themselves.
            told = str(error).removeprefix(f"{name}: ")
        print(f"gmeta-tf {name}: {told}", file=sys.stderr)
        if arguments is None and is_out_of_memory(error):
            leave_at_once(1)
        raise SystemExit(1) from error


def _without_command(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of `gmeta-tf launch`, and behind `--` those that each rank runs.

    >>> _without_command(["launch", "-np", "2", "--", "gmeta-tf", "train"])
    (['launch', '-np', '2'], ['gmeta-tf', 'train'])
    """
    if words[:1] != ["launch"] or "--" not in words:
        return words, []
    end = words.index("--")
    return words[:end], words[end + 1 :]


def _parser() -> CommandsParser:
    set_loader("yaml", flags_of, (yaml.YAMLError,))
    parser = CommandsParser(
        prog="gmeta-tf",
        description="Meta-learning recommenders on many workers, without parameter servers.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    subcommands = parser.add_subcommands(dest="subcommand", metavar="COMMAND")
    for name, (kind, summary) in _COMMANDS.items():
        command = ArgumentParser(
            description=options.description_of(kind),
            usage=usage_of(name, kind),
            formatter_class=HelpFormatter,
        )
        command.add_argument("--config", action=ActionConfigFile, help="a YAML file of flags")
        _add_options(command, kind, help_for_people(kind))
        subcommands.add_subcommand(name, command, help=summary)
        parser.commands[name] = command
    return parser


def _add_options(parser: ArgumentParser, kind: type, help_of: Mapping[str, str]) -> None:
    """One flag for each field of a dataclass: `--like-this`, `--yes`/`--no-yes` for a bool.

    A field whose metadata says `positional` is given without a flag.
    """
    hints = typing.get_type_hints(kind)
    group_of: dict[str, Any] = {}
    for group, title in GROUPS.items():
        if issubclass(kind, group):
            heading = parser.add_argument_group(title)
            group_of |= {field.name: heading for field in dataclasses.fields(group)}
    # Stable: those that have to be given come first, the others keep their order.
    for field in sorted(dataclasses.fields(kind), key=_has_default):
        flag, hint = options.flag_of(field.name), hints[field.name]
        settings: dict[str, Any] = {"help": help_of[field.name]}
        if field.metadata.get("positional"):
            of = typing.get_args(hint)[0] if _is_list(hint) else None
            settings |= {"type": of, "nargs": "+"} if of else {"type": hint}
            parser.add_argument(field.name, **settings)
            continue
        if field.default is not dataclasses.MISSING:
            settings["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            settings["default"] = field.default_factory()
        else:
            settings["required"] = True
        if hint is bool:
            settings["action"] = ActionYesNo(no_prefix="no-")
        else:
            items = [typing.get_args(t)[0] for t in (hint, *typing.get_args(hint)) if _is_list(t)]
            settings |= {"type": items[0], "nargs": "+"} if items else {"type": hint}
            if hint == bool | None:
                settings["metavar"] = "{yes,no}"
        place = group_of.get(field.name, parser)
        place.add_argument(flag, *field.metadata.get("short", ()), **settings)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is list
