'''Configurations: one frozen dataclass per experiment, presets, and flags that override single fields.

    @dataclasses.dataclass(frozen=True)
    class Inner:
        steps: int = 5
        """Inner steps (table 1 of the paper)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        inner: Inner = Inner()
        """The inner loop."""
        learning_rate: float = 1e-3
        """Step size of the outer loop."""

    PRESETS = {"smoke": Config(), "paper": Config(inner=Inner(steps=10))}

A string below a field is its documentation. Fields may be int, float, bool, str, Literal, Enum, a tuple of these, any
of them or None, or another such dataclass. `validate(self)` or `__post_init__` may raise ValueError.

In a notebook: `dataclasses.replace(PRESETS["smoke"], learning_rate=0.1)` or `override(config, {"inner.steps": "3"})`.
On the command line: see `metalearn.run.launching`.
'''

import ast
import dataclasses
import difflib
import enum
import functools
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from metalearn.run import files

ConfigT = TypeVar("ConfigT")


class ConfigError(ValueError):
    """A configuration names an unknown field or preset, or holds a value of the wrong type or outside its range."""


class FieldInfo(NamedTuple):
    """One leaf of a configuration: dotted name, annotated type and the documentation below the field."""

    name: str
    type: Any
    doc: str


@functools.cache
def _types(config_type: type) -> dict[str, Any]:
    hints = typing.get_type_hints(config_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_type) if field.init}


@functools.cache
def _docs(config_type: type) -> dict[str, str]:
    """Reads the strings below the fields from the source, base classes first."""
    docs: dict[str, str] = {}
    for cls in reversed(config_type.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        except (OSError, TypeError, SyntaxError):  # typed at a plain prompt: no source, hence no documentation
            continue
        statements = getattr(body, "body", [])
        for before, after in zip(statements, statements[1:], strict=False):
            is_field = isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)
            if is_field and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[before.target.id] = inspect.cleandoc(str(after.value.value))
    return docs


def fields(config_type: type, prefix: str = "") -> Iterator[FieldInfo]:
    """Yields every leaf field of a config class, nested ones with dotted names, in the order of definition."""
    for name, annotation in _types(config_type).items():
        if dataclasses.is_dataclass(annotation):
            yield from fields(typing.cast(type, annotation), f"{prefix}{name}.")
        else:
            yield FieldInfo(prefix + name, annotation, _docs(config_type).get(name, ""))


def type_name(annotation: Any) -> str:
    """The annotated type in words a user of the command line understands."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is types.NoneType:
        return "none"
    if origin is typing.Literal:
        return "|".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if origin is tuple:
        return f"tuple of {type_name(args[0])}" if args[-1] is ... else f"({', '.join(map(type_name, args))})"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "|".join(member.name for member in annotation)
    return getattr(annotation, "__name__", str(annotation))


def parse_text(text: str, annotation: Any) -> Any:
    """Reads one command-line value as the annotated type; raises ConfigError with the expected type otherwise."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    expected = ConfigError(f"expected {type_name(annotation)}, got {text!r}.")
    if annotation is str:
        return text
    if annotation is types.NoneType and text.lower() in ("none", "null"):
        return None
    if annotation is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
        return text.lower() in ("true", "1", "yes")
    if annotation in (int, float):
        try:
            return annotation(text)
        except ValueError:
            raise expected from None
    if origin is typing.Literal or isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        options = {str(arg): arg for arg in args} or {member.name: member for member in annotation}
        if text in options:
            return options[text]
        raise ConfigError(str(expected) + suggestion(text, options))
    if origin in (typing.Union, types.UnionType):
        for arg in sorted(args, key=lambda arg: arg is not types.NoneType):  # "none" is no string where None is allowed
            try:
                return parse_text(text, arg)
            except ConfigError:
                continue
    if origin is tuple:
        inside = text.strip().removeprefix("(").removesuffix(")").strip().removesuffix(",")
        items = [item.strip() for item in inside.split(",")] if inside else []
        item_types = [args[0]] * len(items) if args[-1] is ... else list(args)
        if len(items) == len(item_types):
            try:
                return tuple(map(parse_text, items, item_types))
            except ConfigError:
                raise expected from None
    raise expected


def _from_jsonable(value: Any, annotation: Any, name: str) -> Any:
    """Checks `value` (as made by `files.jsonable`) against the annotation and gives it its type back."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    expected = ConfigError(f"config field {name!r}: expected {type_name(annotation)}, got {value!r}.")
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _build(annotation, value, name)
    if annotation is float:
        if isinstance(value, str) and value in ("nan", "inf", "-inf"):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif annotation in (int, bool, str, types.NoneType):
        if type(value) is annotation:
            return value
    elif origin is typing.Literal:
        for arg in args:
            if type(arg) is type(value) and arg == value:
                return arg
        raise ConfigError(str(expected) + suggestion(str(value), map(str, args)))
    elif origin in (typing.Union, types.UnionType):
        exact = sorted(args, key=lambda arg: type(value) is not arg)  # 1 stays an int in `float | int`
        for arg in exact:
            try:
                return _from_jsonable(value, arg, name)
            except ConfigError:
                continue
    elif origin is tuple:
        item_types = [args[0]] * len(value) if args[-1] is ... and isinstance(value, list) else list(args)
        if isinstance(value, list) and len(value) == len(item_types):
            pairs = enumerate(zip(value, item_types, strict=True))
            return tuple(_from_jsonable(item, item_type, f"{name}[{i}]") for i, (item, item_type) in pairs)
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        if isinstance(value, str) and value in annotation.__members__:
            return annotation[value]
    else:
        raise ConfigError(
            f"config field {name!r} has the unsupported type {annotation!r}: use int, float, bool, str, Literal, Enum, "
            "tuples of these, `... | None` or a nested frozen dataclass."
        )
    raise expected


def _build(config_type: type[ConfigT], values: Any, name: str = "") -> ConfigT:
    prefix = f"{name}." if name else ""
    if not isinstance(values, dict):
        raise ConfigError(f"config field {name!r}: expected the fields of {config_type.__name__}, got {values!r}.")
    annotations = _types(typing.cast(type, config_type))
    for key in values:
        if key not in annotations:
            raise ConfigError(unknown_field(config_type, prefix + key, prefix))
    missing = [prefix + key for key in annotations if key not in values]
    if missing:
        raise ConfigError(f"config lacks {', '.join(missing)}: it was written by another version of the experiment.")
    built = {key: _from_jsonable(values[key], annotation, prefix + key) for key, annotation in annotations.items()}
    try:
        config = config_type(**built)
        if callable(validate := getattr(config, "validate", None)):
            validate()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"config{'.' + name if name else ''}: {error}") from error
    return config


def suggestion(word: str, options: typing.Iterable[str]) -> str:
    """' Did you mean ...?' with the close matches of a mistyped word, or nothing."""
    close = difflib.get_close_matches(word, list(options), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def unknown_field(config_type: type, name: str, prefix: str = "") -> str:
    """The message for a field that does not exist: its name, close matches and where to look."""
    names = [field.name for field in fields(config_type, prefix)]
    inside = [other for other in names if other.startswith(name + ".")]
    if inside:
        return f"config field {name!r} is a group: set one of {', '.join(inside)}."
    # A leaf name without its group ("steps" for "inner.steps") is the commonest slip, and far in letters.
    same_leaf = [other for other in names if other.rpartition(".")[2] == name.rpartition(".")[2]]
    hint = f" Did you mean {' or '.join(same_leaf)}?" if same_leaf else suggestion(name, names)
    return f"unknown config field {name!r}.{hint} --help lists all {len(names)} fields with their types."


def checked(config: ConfigT) -> ConfigT:
    """The same config with every field checked against its annotation (ints in float fields become floats).

    Runs `validate` of the config and its nested ones. Raises ConfigError naming the field.
    """
    return _build(type(config), files.jsonable(config))


def override(config: ConfigT, overrides: Mapping[str, Any]) -> ConfigT:
    """Replaces dotted fields: `override(config, {"inner.steps": "3"})`. Text is parsed as the field's type.

    Raises ConfigError for an unknown field, an ill-typed value or a combination that `validate` refuses.
    """
    by_name = {field.name: field for field in fields(type(config))}
    values = files.jsonable(config)
    for name, value in overrides.items():
        if name not in by_name:
            raise ConfigError(unknown_field(type(config), name))
        if isinstance(value, str):
            try:
                value = parse_text(value, by_name[name].type)
            except ConfigError as error:
                raise ConfigError(f"config field {name!r}: {error}") from None
        *groups, leaf = name.split(".")
        functools.reduce(lambda node, group: node[group], groups, values)[leaf] = files.jsonable(value)
    return _build(type(config), values)


def pick(presets: Mapping[str, ConfigT], name: str) -> ConfigT:
    """The preset of that name; raises ConfigError with all names and close matches."""
    if name not in presets:
        raise ConfigError(f"unknown preset {name!r}: choose from {', '.join(presets)}.{suggestion(name, presets)}")
    return presets[name]


def to_json(config: Any) -> str:
    """The config as JSON text; equal configs give equal text."""
    return files.json_text(config)


def from_json(config_type: type[ConfigT], text: str) -> ConfigT:
    """Rebuilds a config exactly. Raises ConfigError for damaged text, unknown, missing or ill-typed fields."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the text is not JSON ({error}).") from error
    return _build(config_type, values)


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """Lines 'field: theirs -> ours' for every leaf in which two configs (or their JSON values) differ."""
    ours, theirs = files.jsonable(ours), files.jsonable(theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        names = [*theirs, *(name for name in ours if name not in theirs)]
        absent = "(absent)"
        return [
            line
            for name in names
            for line in differences(ours.get(name, absent), theirs.get(name, absent), f"{prefix}{name}.")
        ]
    same = type(ours) is type(theirs) and ours == theirs
    return [] if same else [f"{prefix[:-1]}: {theirs!r} -> {ours!r}"]
