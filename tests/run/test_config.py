"""Configs: types, overrides, JSON and the messages of what goes wrong."""

import dataclasses
import enum
import json
import math
from typing import Literal

from absl.testing import absltest, parameterized

from metalearn.run import config as configs
from metalearn.run.config import ConfigError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Inner:
    steps: int = 5
    """Inner steps
    (table 1)."""
    rates: tuple[float, ...] = (0.1, 0.2)
    """One per layer."""

    def validate(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, got {self.steps}.")


@dataclasses.dataclass(frozen=True)
class Base:
    seed: int = 0
    """Of everything random."""


@dataclasses.dataclass(frozen=True)
class Config(Base):
    inner: Inner = Inner()
    """The inner loop."""
    rate: float = 1.0
    name: str = "a"
    """Without quotes."""
    flag: bool = False
    mode: Literal["plain", "mixed", 3] = "plain"
    colour: Colour = Colour.RED
    cap: int | None = None
    shape: tuple[int, float] = (1, 2.0)
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate == 13:
            raise ValueError("rate 13 brings bad luck.")


class ConfigTest(parameterized.TestCase):
    def test_fields_in_order_with_types_and_docs(self):
        found = {field.name: field for field in configs.fields(Config)}
        self.assertEqual(list(found)[:4], ["seed", "inner.steps", "inner.rates", "rate"])
        self.assertEqual(found["seed"].doc, "Of everything random.")
        self.assertEqual(found["inner.steps"].doc, "Inner steps\n(table 1).")
        self.assertEqual(found["rate"].doc, "")
        self.assertEqual(found["name"].doc, "Without quotes.")
        self.assertEqual(found["inner.rates"].type, tuple[float, ...])

    @parameterized.parameters(
        ("inner.steps", "3", 3), ("inner.steps", "-0", 0), ("rate", "1e-3", 0.001), ("rate", "2", 2.0),
        ("rate", "inf", math.inf), ("name", "None", "None"), ("name", "", ""), ("flag", "true", True),
        ("flag", "FALSE", False), ("flag", "1", True), ("mode", "mixed", "mixed"), ("mode", "3", 3),
        ("colour", "BLUE", Colour.BLUE), ("cap", "none", None), ("cap", "7", 7), ("shape", "(3, 4)", (3, 4.0)),
        ("inner.rates", "0.5", (0.5,)), ("inner.rates", "()", ()), ("inner.rates", "(1,)", (1.0,)),
        ("words", "x,y z", ("x", "y z")),
    )  # fmt: skip
    def test_override_from_text(self, name, text, expected):
        value = configs.override(Config(), {name: text})
        for part in name.split("."):
            value = getattr(value, part)
        self.assertEqual(value, expected)
        self.assertIs(type(value), type(expected))

    def test_overrides_leave_the_rest_alone(self):
        base = Config(rate=2.0, inner=Inner(steps=9))
        changed = configs.override(base, {"inner.rates": "3", "cap": 4})
        self.assertEqual(changed, dataclasses.replace(base, cap=4, inner=Inner(steps=9, rates=(3.0,))))
        self.assertEqual(base.cap, None)

    @parameterized.parameters(
        ("inner.stpes", "3", "unknown config field 'inner.stpes'. Did you mean inner.steps"),
        ("steps", "3", "unknown config field 'steps'. Did you mean inner.steps?"),
        ("zzz", "3", "unknown config field 'zzz'. --help lists all 11 fields"),
        ("inner", "3", "'inner' is a group: set one of inner.steps, inner.rates"),
        ("inner.steps", "3.5", "'inner.steps': expected int, got '3.5'"),
        ("inner.steps", 3.5, "'inner.steps': expected int, got 3.5"),
        ("inner.steps", True, "'inner.steps': expected int, got True"),
        ("flag", "maybe", "'flag': expected bool, got 'maybe'"),
        ("flag", 1, "'flag': expected bool, got 1"),
        ("rate", "fast", "'rate': expected float, got 'fast'"),
        ("mode", "mixd", "'mode': expected plain|mixed|3, got 'mixd'. Did you mean mixed?"),
        ("colour", "GREEN", "'colour': expected RED|BLUE, got 'GREEN'"),
        ("cap", "few", "'cap': expected int or none, got 'few'"),
        ("shape", "1,2,3", "'shape': expected (int, float), got '1,2,3'"),
        ("inner.rates", "1,x", "'inner.rates': expected tuple of float, got '1,x'"),
        ("inner.rates", [1, "x"], r"'inner.rates[1]': expected float, got 'x'"),
        ("inner.steps", "-1", "config.inner: steps must not be negative, got -1."),
        ("rate", "13", "config: rate 13 brings bad luck."),
    )
    def test_errors_name_the_field(self, name, value, message):
        with self.assertRaises(ConfigError) as caught:
            configs.override(Config(), {name: value})
        self.assertIn(message, str(caught.exception))

    def test_ill_typed_preset(self):
        with self.assertRaisesRegex(ConfigError, "'inner.steps': expected int, got 2.5"):
            configs.checked(Config(inner=Inner(steps=2.5)))
        self.assertIs(type(configs.checked(Config(rate=2)).rate), float)

    def test_unsupported_annotation(self):
        Odd = dataclasses.make_dataclass("Odd", [("x", dict[str, int], dataclasses.field(default_factory=dict))])
        with self.assertRaisesRegex(ConfigError, "'x' has the unsupported type dict"):
            configs.checked(Odd())

    def test_unknown_preset(self):
        presets = {"smoke": Config(), "paper": Config(rate=3.0)}
        self.assertEqual(configs.pick(presets, "paper").rate, 3.0)
        with self.assertRaisesRegex(
            ConfigError, "unknown preset 'papr': choose from smoke, paper. Did you mean paper?"
        ):
            configs.pick(presets, "papr")

    @parameterized.parameters(
        Config(),
        Config(seed=-3, inner=Inner(7, (1e-300, 0.1 + 0.2)), rate=math.inf, name="ü\n", flag=True, mode=3),
        Config(colour=Colour.BLUE, cap=10**20, shape=(4, 0.0), words=("x", "")),
    )
    def test_json_round_trip(self, config):
        text = configs.to_json(config)
        self.assertEqual(configs.from_json(Config, text), config)
        self.assertEqual(configs.to_json(configs.from_json(Config, text)), text)
        json.loads(text, parse_constant=self.fail)  # no NaN or Infinity, which JSON does not have

    @parameterized.parameters(
        ("{", "not JSON"),
        ("[]", "expected the fields of Config"),
        (configs.to_json(Config()).replace('"steps"', '"stepz"'), "unknown config field 'inner.stepz'"),
        ('{"inner": {"steps": 1, "rates": []}}', "config lacks seed, rate, name"),
    )
    def test_damaged_json(self, text, message):
        with self.assertRaisesRegex(ConfigError, message):
            configs.from_json(Config, text)

    def test_differences(self):
        ours, theirs = Config(rate=2.0, inner=Inner(steps=1)), Config(words=("x",))
        self.assertEqual(
            sorted(configs.differences(ours, theirs)),
            ["inner.steps: 5 -> 1", "rate: 1.0 -> 2.0", "words: ['x'] -> []"],
        )
        self.assertEqual(configs.differences(ours, ours), [])
        self.assertEqual(configs.differences({"a": 1, "b": {"c": True}}, {"a": 1.0, "b": {}}),
                         ["a: 1.0 -> 1", "b.c: '(absent)' -> True"])  # fmt: skip


if __name__ == "__main__":
    absltest.main()
