"""What `python -m experiments.NAME` runs: flags, the resolved config, and an end that says what to do next.

    def main(config: Config, workdir: pathlib.Path, dry_run: bool) -> None: ...

    if __name__ == "__main__":
        launch(PRESETS, main, __doc__)

Flags: `--preset`, `--workdir`, `--dry_run` and `--config.FIELD=VALUE` for every field. The preset is the base and the
overrides apply on top of it, in whatever order they are given. A launch may give fields that most commands set a flag
without the prefix (`short_flags`). Where one launch file holds several experiments, each
with presets and fields of its own, `launch_one_of` takes `--experiment=NAME` besides.
"""

import logging
import pathlib
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import app, flags
from absl import logging as absl_logging

from metalearn.run import config as configs
from metalearn.run.compilation import enable_compilation_cache, use_all_cores
from metalearn.run.errors import RunError

ConfigT = TypeVar("ConfigT")

_HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


class Launch(NamedTuple):
    """What the command line asked for."""

    config: Any
    workdir: pathlib.Path
    dry_run: bool


class Experiment(NamedTuple):
    """One of several experiments of a launch file: the arguments of `launch`."""

    presets: Mapping[str, Any]
    main_fn: Callable[[Any, pathlib.Path, bool], None]
    doc: str


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: treated as Ctrl-C."""


class _FieldParser(flags.ArgumentParser):
    """Checks the value of one field while the command line is parsed, so that the error names the flag."""

    def __init__(self, field: configs.FieldInfo):
        self._field = field

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, str):
            configs.parse_text(argument, self._field.type)
        return argument

    def flag_type(self) -> str:
        return configs.type_name(self._field.type)


def define_flags(
    presets: Mapping[str, Any],
    flag_values: flags.FlagValues,
    default_preset: str | None = None,
    short_flags: Mapping[str, str] | None = None,
) -> None:
    """Defines `--preset`, `--workdir`, `--dry_run` and one `--config.` flag per field in `flag_values`.

    Args:
      short_flags: flag -> field, for fields that get a second flag without the prefix.

    Raises ConfigError when there is no preset, when presets are of different types, when one is ill-typed, or when a
    short flag is for no field.
    """
    if not presets:
        raise configs.ConfigError("there are no presets: give at least one name -> config.")
    config_types = {type(preset) for preset in presets.values()}
    if len(config_types) != 1:
        names = ", ".join(sorted(config_type.__name__ for config_type in config_types))
        raise configs.ConfigError(f"presets must be of one type, got {names}.")
    for preset in presets.values():
        configs.checked(preset)
    first = default_preset or next(iter(presets))
    configs.pick(presets, first)
    flags.DEFINE_string("preset", first, f"One of {', '.join(presets)}.", flag_values=flag_values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=flag_values)
    flags.DEFINE_bool("dry_run", False, "Print sizes and expected costs, compute nothing.", flag_values=flag_values)
    config_type = config_types.pop()
    by_name = {field.name: field for field in configs.fields(config_type)}
    for name in (short_flags or {}).values():
        if name not in by_name:
            raise configs.ConfigError(configs.unknown_field(config_type, name))
    fields = {f"config.{name}": field for name, field in by_name.items()}
    fields |= {short: by_name[name] for short, name in (short_flags or {}).items()}
    for flag_name, field in fields.items():
        flag = flags.Flag(_FieldParser(field), flags.ArgumentSerializer(), flag_name, None, field.doc)
        flag.boolean = field.type is bool  # `--config.FIELD` alone means true, `--noconfig.FIELD` false
        flags.DEFINE_flag(flag, flag_values)


def parse(
    argv: Sequence[str],
    presets: Mapping[str, Any],
    flag_values: flags.FlagValues,
    name: str = "run",
    short_flags: Mapping[str, str] | None = None,
) -> Launch:
    """Parses a command line (program name first) by flags made by `define_flags`.

    Args:
      argv: the command line.
      presets: name -> config.
      flag_values: where the flags are.
      name: of the experiment; the default of `--workdir` is runs/NAME/PRESET.
      short_flags: as for `define_flags`.

    Raises:
      ConfigError: unknown preset or field, ill-typed value, a combination that `validate` refuses, a field given by
        both of its flags.
      absl.flags.Error: any other flag is unknown or ill-formed.
      absl.app.UsageError: there are arguments that are no flags.
    """
    config_type = type(next(iter(presets.values())))
    try:
        rest = flag_values(list(argv))
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            raise configs.ConfigError(
                configs.unknown_field(config_type, error.flagname.removeprefix("config."))
            ) from None
        raise
    if rest[1:]:
        raise app.UsageError(f"unexpected arguments {' '.join(rest[1:])!r}: flags start with --.")
    given = {field.name: flag_values[f"config.{field.name}"].value for field in configs.fields(config_type)}
    for short, field_name in (short_flags or {}).items():
        value = flag_values[short].value
        if value is not None and given[field_name] is not None:
            raise configs.ConfigError(f"--{short} and --config.{field_name} are the same: give one of them.")
        given[field_name] = given[field_name] if value is None else value
    given = {field_name: _as_text(value) for field_name, value in given.items() if value is not None}
    preset, workdir = str(flag_values["preset"].value), flag_values["workdir"].value
    config = configs.override(configs.pick(presets, preset), given)
    folder = pathlib.Path(workdir) if workdir else pathlib.Path("runs") / name / preset
    return Launch(config, folder, bool(flag_values["dry_run"].value))


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def help_text(
    presets: Mapping[str, Any],
    doc: str,
    program: str,
    default_preset: str | None = None,
    short_flags: Mapping[str, str] | None = None,
) -> str:
    """The answer to `--help`: the experiment, its presets and every field with type, value per preset and meaning."""
    first = default_preset or next(iter(presets))
    config_type = type(presets[first])
    lines = [
        textwrap.dedent(doc).strip(),
        "",
        f"usage: {program} [--preset=NAME] [--workdir=FOLDER] [--dry_run] [--config.FIELD=VALUE ...]",
        "",
        f"  --preset=NAME      {', '.join(presets)} (default: {first})",
        "  --workdir=FOLDER   where the run is written and where it goes on (default: runs/EXPERIMENT/PRESET)",
        "  --dry_run          print sizes and expected costs, compute nothing",
        *(f"  {f'--{short}=...':<19}short for --config.{field}" for short, field in (short_flags or {}).items()),
        "",
        f"Fields, with their values in {' | '.join(presets)} (one value: the same in all):",
    ]
    for field in configs.fields(config_type):
        values = [_shown(preset, field.name) for preset in presets.values()]
        shown = values[0] if len(set(values)) == 1 else " | ".join(values)
        lines.append(f"  --config.{field.name}=<{configs.type_name(field.type)}>   {shown}")
        lines.extend(textwrap.wrap(field.doc, 110, initial_indent=" " * 6, subsequent_indent=" " * 6))
    return "\n".join(lines) + "\n"


def _shown(config: Any, name: str) -> str:
    for part in name.split("."):
        config = getattr(config, part)
    if isinstance(config, tuple):
        return f"({','.join(map(str, config))})"
    return str(getattr(config, "name", config))


def launch(
    presets: Mapping[str, ConfigT],
    main_fn: Callable[[ConfigT, pathlib.Path, bool], None],
    doc: str | None = None,
    *,
    name: str | None = None,
    default_preset: str | None = None,
    short_flags: Mapping[str, str] | None = None,
) -> None:
    """Runs an experiment from the command line and ends the process.

    Wrong flags end it with status 2 and one message before anything is compiled; an error of the run that the user can
    mend (`RunError`, `ConfigError`) with status 1 and its message; Ctrl-C and SIGTERM with 130 and 143 and the advice
    to give the same command again. Other exceptions keep their traceback. Compiled programs are cached on disk.

    Args:
      presets: name -> config, all of one frozen dataclass.
      main_fn: `(config, workdir, dry_run)`.
      doc: what the experiment is, shown by `--help`; usually `__doc__`.
      name: of the experiment; default: the module's name. Its runs go to runs/NAME/PRESET by default.
      default_preset: default: the first.
      short_flags: flag -> field: `{"data": "inputs.folder"}` makes `--data` short for `--config.inputs.folder`.
    """
    program, module_name = _launched()
    experiment = Experiment(presets, main_fn, doc or "")
    _launch(experiment, sys.argv, name or module_name, program, default_preset, short_flags)


def launch_one_of(
    experiments: Mapping[str, Experiment],
    doc: str,
    *,
    default: str | None = None,
    default_preset: str | None = None,
    short_flags: Mapping[str, str] | None = None,
) -> None:
    """As `launch`, for the experiment that `--experiment=NAME` names; its runs go to runs/LAUNCH_FILE/NAME/PRESET.

    `--help` alone lists the experiments, together with `--experiment` it shows the fields of that one.

    Args:
      experiments: name -> experiment.
      doc: what they have in common; usually `__doc__`.
      default: the experiment that a command without `--experiment` means; None: it must name one.
      default_preset, short_flags: as for `launch`; every experiment must have those fields.
    """
    program, module_name = _launched()
    wants_help = bool(set(sys.argv[1:]) & set(_HELP))
    try:
        chosen, argv = pick_experiment(experiments, sys.argv, None if wants_help else default)
    except configs.ConfigError as error:
        if wants_help:
            sys.stdout.write(f"{textwrap.dedent(doc).strip()}\n\n{_listing(experiments, default)}\n")
            sys.exit(0)
        _end(f"{error}\n(see {program} --help)", 2)
    program = f"{program} --experiment={chosen}"
    _launch(experiments[chosen], argv, f"{module_name}/{chosen}", program, default_preset, short_flags)


def pick_experiment(
    experiments: Mapping[str, Experiment], argv: Sequence[str], default: str | None = None
) -> tuple[str, list[str]]:
    """The experiment that a command line (program name first) names, and the command line without that flag.

    Raises:
      ConfigError: none is named and there is no `default`, or one that does not exist; lists them all.
    """
    chosen, rest = default, list(argv[:1])
    arguments = iter(argv[1:])
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag in ("--experiment", "-experiment"):
            chosen = value if equals else next(arguments, "")
        else:
            rest.append(argument)
    if chosen is None:
        raise configs.ConfigError(f"say which experiment, by --experiment=NAME.\n{_listing(experiments, default)}")
    if chosen not in experiments:
        hint = configs.suggestion(chosen, experiments)
        raise configs.ConfigError(f"unknown experiment {chosen!r}.{hint}\n{_listing(experiments, default)}")
    return chosen, rest


def _listing(experiments: Mapping[str, Experiment], default: str | None) -> str:
    width = max(map(len, experiments))
    firsts = {name: experiment.doc.strip().partition("\n")[0] for name, experiment in experiments.items()}
    lines = [f"  {name:<{width}}   {first}" for name, first in firsts.items()]
    return "\n".join(["Experiments:" if default is None else f"Experiments (default: {default}):", *lines])


def _launched() -> tuple[str, str]:
    """How this process was called, and the name of its module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec is not None else None
    if module:
        return f"python -m {module}", module.rpartition(".")[2]
    return f"python {sys.argv[0]}", pathlib.Path(sys.argv[0]).stem


def _launch(
    experiment: Experiment,
    command: Sequence[str],
    name: str,
    program: str,
    default_preset: str | None,
    short_flags: Mapping[str, str] | None = None,
) -> None:
    presets, main_fn, doc = experiment
    asked: list[Launch] = []

    def parse_flags(argv: Sequence[str]) -> list[str]:
        if set(argv[1:]) & set(_HELP):
            sys.stdout.write(help_text(presets, doc, program, default_preset, short_flags))
            sys.exit(0)
        try:
            define_flags(presets, flags.FLAGS, default_preset, short_flags)
            asked.append(parse(argv, presets, flags.FLAGS, name, short_flags))
        except (configs.ConfigError, flags.Error, app.UsageError) as error:
            _end(f"{error}\n(see {program} --help)", 2)
        return [argv[0]]

    def main(_: Sequence[str]) -> None:
        absl_logging.use_absl_handler()
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)  # it reports every backend that is absent
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        try:
            use_all_cores()
            enable_compilation_cache()
            main_fn(*asked[0])
        except (RunError, configs.ConfigError) as error:
            _end(str(error), 1)
        except KeyboardInterrupt as error:
            terminated = isinstance(error, Terminated)
            _end("stopped: the same command goes on from the last checkpoint", 143 if terminated else 130)

    app.run(main, argv=list(command), flags_parser=parse_flags)


def _terminate(*_: Any) -> None:
    raise Terminated


def _end(message: str, status: int) -> None:
    sys.stderr.write(f"error: {message}\n" if status < 100 else f"{message}\n")
    sys.exit(status)
