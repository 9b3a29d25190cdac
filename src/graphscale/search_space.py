"""What a search draws: settings, and the values that each may take. Imports neither torch nor optuna.

A space is written as text, a setting each:

| text                 | draws                                                            |
|----------------------|------------------------------------------------------------------|
| ``1e-4..1e-1:log``   | a number of the range, ends included, uniform in its logarithm   |
| ``0..0.8``           | uniform; whole numbers where the setting takes them              |
| ``0..0.8:0.2``       | uniform among 0, 0.2, ..., 0.8                                   |
| ``64,128,256``       | one of the values; ``none`` where the setting may be left out    |
| ``10,5|10,10,5``     | one of the values, which have commas of their own                |
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graphscale.config import CONTINUES, HOUSEKEEPING, TrainConfig, checked, flag
from graphscale.errors import InputError

_DRAWS = 100  # of the other settings, before a value is said to be refused whatever they are


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, ends included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False  # all three are integers

    def extremes(self) -> tuple[float, ...]:
        """The values that a configuration would refuse if it refused any."""
        return (self.low, self.high)

    def drawn(self, draw: random.Random) -> float:
        """A value for trying out; a search's own are drawn by its sampler."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return draw.uniform(self.low, self.high)
        return self.low + step * draw.randint(0, round((self.high - self.low) / step))

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that an optuna trial draws."""
        if self.whole:
            return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step or 1)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def extremes(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def drawn(self, draw: random.Random) -> Any:
        """A value for trying out."""
        return draw.choice(self.values)

    def suggest(self, trial: Any, name: str) -> Any:
        """The value that an optuna trial draws."""
        return trial.suggest_categorical(name, self.values)


Space = dict[str, Range | Choice]  # by setting, sorted


def texts(space: Space) -> dict[str, str]:
    """What ``parse`` makes the same space of."""
    return {name: _text(values) for name, values in space.items()}


def _text(values: Range | Choice) -> str:
    if isinstance(values, Choice):
        words = [str(v).lower() if v is None or isinstance(v, bool) else str(v) for v in values.values]
        return ("|" if any("," in word for word in words) else ",").join(words)
    how = ":log" if values.log else "" if values.step is None else f":{values.step}"
    return f"{values.low}..{values.high}{how}"


def entries(flags: Sequence[str]) -> dict[str, str]:
    """Texts by setting, of flags such as ``lr=1e-4..1e-1:log``.

    Raises:
        InputError: on a flag without a setting, or a setting that is given twice.
    """
    found: dict[str, str] = {}
    for given in flags:
        name, _, text = given.partition("=")
        name = name.strip().replace("-", "_")
        if not name or not text.strip():
            raise InputError(
                f"--search {given}: a setting and its values are needed. Write --search lr=1e-4..1e-1:log or"
                " --search hidden=64,128."
            )
        if name in found:
            raise InputError(f"--search has {name} twice. Leave one out.")
        found[name] = text.strip()
    return found


def parse(kind: type[TrainConfig], given: Mapping[str, Any]) -> Space:
    """The space that texts, or lists of values, make of settings of ``kind``.

    Raises:
        InputError: on a name that is no setting or not to be searched, values that do not fit it, or a range that
            holds nothing to choose from.
    """
    if not given:
        raise InputError(
            "there is nothing to search. Give --search lr=1e-4..1e-1:log, or a [search] table in --config."
        )
    hints = get_type_hints(kind)
    space: Space = {}
    named = {name.replace("-", "_"): values for name, values in given.items()}
    for name, values in sorted(named.items(), key=lambda item: item[0]):
        _demand_searchable(kind, name)
        said = f"--search {name}={values}"
        hint = hints[name]
        if isinstance(values, str) and ".." in values and {int, float} & set(_options(hint)):  # a path may have .. too
            space[name] = _range(values, whole=float not in _options(hint), said=said)
        else:
            space[name] = _choice(values, hint, said)
        for value in space[name].extremes():
            checked(kind, {name: value}, "--search")
    return space


def demand_accepted(config: TrainConfig, space: Space) -> None:
    """Refuse a space with a value that ``config`` refuses, whatever the other settings of the space are.

    Raises:
        InputError: with the configuration's own reason.
    """
    for name, values in space.items():
        others = {other: among for other, among in space.items() if other != name}
        for value in values.extremes():
            if reason := _refused_always(config, name, value, others):
                raise InputError(f"--search draws {name} = {value}, which is refused: {reason}")


def _refused_always(config: TrainConfig, name: str, value: Any, others: Space) -> str:
    """Why a value is refused beside the others' values and beside many that they may take; empty where it is not."""
    reason = _refusal(config, {name: value})
    draw = random.Random(f"{name}={value}")
    for _ in range(_DRAWS if reason and others else 0):
        if not _refusal(config, {name: value, **{other: among.drawn(draw) for other, among in others.items()}}):
            return ""
    return reason


def _refusal(config: TrainConfig, changes: Mapping[str, Any]) -> str:
    try:
        replace(config, **changes)
    except InputError as error:
        return str(error)
    return ""


def _demand_searchable(kind: type[TrainConfig], name: str) -> None:
    if name not in {field.name for field in fields(kind)}:
        checked(kind, {name: None}, "--search")  # refuses it, with the recipe's reason or the names there are
    if name in ("seed", "seeds"):
        raise InputError(
            f"--search {name}: the best of several seeds is luck. Leave it out; --seeds-per-trial 3 scores every trial"
            " by the mean over three."
        )
    if name in kind.protocol():
        raise InputError(
            f"--search {name}: {flag(name)} decides what is scored, and scores under different ones do not compare."
            " Make a search for each."
        )
    if name in {*HOUSEKEEPING, *CONTINUES, "preset"} - {"epochs", "patience"}:
        raise InputError(f"--search {name}: {flag(name)} is not part of what is learned. Leave it out of the search.")


def _range(text: str, *, whole: bool, said: str) -> Range:
    """A range's text; its numbers are decimal until they are checked, so that 0.8 is four steps of 0.2."""
    ends, _, how = text.partition(":")
    log = how.strip() == "log"
    step = None if log or not how else how
    try:
        low, high, by = (None if n is None else Decimal(n.strip()) for n in (*ends.split("..", 1), step))
    except InvalidOperation:
        raise InputError(f"{said}: that is no range. Write 1e-4..1e-1:log, 0..0.8, or 0..0.8:0.2.") from None
    assert low is not None and high is not None
    numbers = [n for n in (low, high, by) if n is not None]
    if not all(n.is_finite() for n in numbers):
        raise InputError(f"{said}: a range has finite ends. Change them.")
    if whole and any(n != n.to_integral_value() for n in numbers):
        raise InputError(f"{said}: whole numbers are needed. Change the range.")
    if low >= high:
        raise InputError(f"{said}: the range is empty. Write the lower end first, and a higher one after it.")
    if log and low <= 0:
        raise InputError(f"{said}: a logarithm needs a range above 0. Raise its lower end, or leave :log out.")
    if by is not None and (by <= 0 or (high - low) % by != 0):
        raise InputError(f"{said}: steps of {how} from {low} do not end at {high}. Change the step or the end.")
    number = int if whole else float
    return Range(number(low), number(high), log, None if by is None else number(by), whole)


def _choice(values: Any, hint: Any, said: str) -> Choice:
    """Values of a text or of a list."""
    if isinstance(values, str):
        values = [text.strip() for text in values.split("|" if "|" in values else ",")]
    if not isinstance(values, list | tuple):
        raise InputError(f"{said}: a range or a list of values is needed. Write 1e-4..1e-1:log, or 64,128,256.")
    typed = tuple(_typed(hint, value) for value in values)
    if len(typed) == 1 and ".." in str(values[0]):
        raise InputError(f"{said}: the setting takes no range of numbers. List the values that it may take.")
    if len(typed) < 2 or len({repr(value) for value in typed}) < len(typed):
        raise InputError(f"{said}: a search needs different values, two or more. Fix a single one by its own flag.")
    return Choice(typed)


def _typed(hint: Any, value: Any) -> Any:
    """What a text stands for in a setting of this type; what stands for nothing is refused later, as it is."""
    for option in _options(hint):
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, str):
            continue
        if option is NoneType and value.lower() == "none":
            return None
        if option is bool and value in ("true", "false"):
            return value == "true"
        if get_origin(option) is Literal and value in map(str, get_args(option)):
            return next(choice for choice in get_args(option) if str(choice) == value)
        if option in (int, float):
            with suppress(ValueError):
                return option(value)
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
