"""The command line. Help and listings import neither torch nor PyG.

Exit codes: 0 done, 2 wrong usage or input, 1 anything else, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import functools
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, redirect_stderr
from dataclasses import asdict, fields, make_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from graphscale import __version__, catalog, launch, search_space, settings, tools
from graphscale.config import Device, TrainConfig, checked, plain
from graphscale.errors import DivergenceError, InputError
from graphscale.presets import PRESETS
from graphscale.study_config import StudyConfig

PROGRAM = "graphscale"

T = TypeVar("T")

_SEARCHED = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="SETTING=VALUES",
        help="A setting and its values, as often as needed: lr=1e-4..1e-1:log, dropout=0..0.8, hidden=64,128."
        " By default what [search] in --config says, or the recipe's usual ones.",
    ),
]


def list_names() -> int:
    """List recipes, data sets, models and presets, a line each."""
    width = 20
    for title, entries in (("recipes", catalog.RECIPES), ("data", catalog.DATA), ("models", catalog.MODELS)):
        print(title)
        for name, line in entries.items():
            print(f"  {name:{width}} {line}")
    print("presets")
    for recipe, presets in PRESETS.items():
        for known in presets:
            print(f"  {recipe + ' ' + known.name:{width}} --data {known.data}; expected: {known.expected}")
    return 0


def train(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Train a recipe: graphscale train RECIPE --data D ... (graphscale train RECIPE --help has all settings)."""
    raise AssertionError("only its help is tyro's: the recipe decides which flags there are")


def show(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Show what a recipe would do with the same flags as train: settings and composition."""
    return train(recipe)


def advise(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Advise on the size of batches: graphscale advise pres --data D, with the same flags as train, --json too."""
    return train(recipe)


def tune(recipe: Annotated[str, tyro.conf.Positional], /) -> int:
    """Search over a recipe's settings by the score on validation: graphscale tune RECIPE --search lr=1e-4..1e-1:log."""
    return train(recipe)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    /,
    data: str | None = None,
    device: Device | None = None,
    negatives: Literal["random", "historical", "inductive"] | None = None,
    ranked: int | None = None,
    baselines: bool = False,
    json: bool = False,
) -> int:
    """Score a run's best checkpoint exactly.

    Args:
        run: folder of the run.
        data: other data with the same features, or the run's stream elsewhere; by default the run's own.
        device: where to compute; by default as in training.
        negatives: of a stream's links, destinations beside which an event is ranked; by default as in training.
        ranked: how many of them; by default as in training.
        baselines: of a stream's links, score EdgeBank and PopTrack beside the run.
        json: print the scores as one JSON object.
    """
    from rich.console import Console as Rich

    from graphscale import console, folder, session

    result = session.evaluate(
        run, data=data, device=device, negatives=negatives, ranked=ranked, baselines=baselines
    )  # fmt: skip
    if json:
        print(folder.dumps(result))
    else:
        Rich().print(console.scores_table(result))
        for name, scores in result.get("baselines", {}).items():
            Rich().print(console.scores_table(scores, title=name))
    if missing := result.get("missing_seeds"):
        print(f"note: no checkpoint yet of seed {', '.join(map(str, missing))}", file=sys.stderr)
    return 0


def _train(recipe: str, config: TrainConfig, notes: list[str], argv: Sequence[str]) -> int:
    if config.profile:  # before torch is loaded: its profiler would tell of every start on standard error
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from graphscale import console, folder, orphan, session, world

    if (config.nproc > 1 or config.restarts) and world.launched() is None:
        return _launch(recipe, config, argv)
    if world.launched() is not None:
        orphan.end_with_launcher()
    screen = console.Console(quiet=world.launched() is not None and not world.leading())
    for note in notes:
        screen.say(note)
    screen.say(_composition(recipe, config))
    result = session.train(recipe, config, console=screen)
    if config.json and (world.launched() is None or world.leading()):
        print(folder.dumps(result), flush=True)
    return 0


def _launch(recipe: str, config: TrainConfig, argv: Sequence[str]) -> int:
    """The same command as several processes, which must agree on the folder."""
    from graphscale import folder
    from graphscale.places import place_of

    out = place_of(recipe, config, config.nproc)
    if config.overwrite and config.restarts:  # a rank that is started again must not find the old run
        with closing(folder.Lock()) as lock:
            folder.claim(out, lock, overwrite=True)
    place = [] if config.out is not None else ["--out", str(out)]
    again = f"What was saved is in {out}: graphscale train {recipe} --resume --out {out} --nproc {config.nproc}"
    return launch.launch(config.nproc, ["train", recipe, *argv, *place], advice=again, restarts=config.restarts)


def _advise(config: Any, notes: list[str]) -> int:
    from rich.console import Console as Rich

    from graphscale import advising, folder

    for note in notes:
        print(note, file=sys.stderr)
    advice = advising.advise(config)
    if config.json:
        print(folder.dumps(advice.plain()))
        return 0
    Rich().print(advising.table_of(advice))
    print(advising.legend(advice))
    print(f"--batch-size {advice.batch_size}: {advice.reason}")
    return 0


def _tune(recipe: str, argv: Sequence[str]) -> int:
    config, study, search, notes = _searched(recipe, argv, f"{PROGRAM} tune {recipe}")
    from graphscale import console, folder, tuning

    screen = console.Console()
    for note in notes:
        screen.say(note)
    result = tuning.tune(recipe, config, search, console=screen, **asdict(study))
    if config.json:
        print(folder.dumps(result), flush=True)
    return 0


def _searched(
    recipe: str, argv: Sequence[str], prog: str
) -> tuple[TrainConfig, StudyConfig, dict[str, Any], tuple[str, ...]]:
    """The settings that are not searched, how to search, what to search, and notes: from file and flags."""
    seen = _early(argv)
    file = None if seen.config is None else Path(seen.config)
    if seen.resume:
        if seen.config is not None:
            raise InputError("--config: a resumed search goes on with its own settings. Leave --config out.")
        if seen.out is None or not (file := Path(seen.out) / "study.toml").is_file():
            raise InputError("--resume: there is no search to go on with. Give the folder of one with --out.")
    kind, values, notes, tables = settings.layers(
        recipe, data=seen.data, preset=seen.preset, config=file, tables=settings.TABLES
    )
    study = StudyConfig(**checked(StudyConfig, tables.get("study", {}), f"[study] of --config {file}"))
    # Flags of a search and of its recipe, side by side.
    both = make_dataclass("Search", [("search", _SEARCHED), ("study", StudyConfig), ("run", kind)], frozen=True)
    both.__doc__ = "Search over settings of a recipe by the score on validation; the recipe's flags are what is fixed."
    default = both((), study, _unchecked(kind, values))
    _demand_flags(kind, argv)
    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.UseAppendAction)
    given: Any = _parsed(lambda: tyro.cli(both, args=list(argv), default=default, prog=prog, config=flat), prog)
    from_file = {name.replace("-", "_"): values for name, values in tables.get("search", {}).items()}
    search = {**from_file, **search_space.entries(given.search)}
    return replace(given.run, config=None), given.study, search, () if seen.resume else notes


def _show(recipe: str, config: TrainConfig, notes: list[str]) -> int:
    for note in notes:
        print(f"# {note}")
    for name, value in plain(config).items():
        print(f"{name} = {value}")
    print(_composition(recipe, config))
    return 0


def _composition(recipe: str, config: Any) -> str:
    return f"{recipe} = {config.composition()}"


def resolve(recipe: str, argv: Sequence[str], program: str) -> tuple[TrainConfig, list[str]]:
    """The configuration from defaults, preset, file and flags, each winning over those before it.

    Raises:
        InputError: on an unknown preset, or a file that is missing, damaged or sets what does not exist.
    """
    seen = _early(argv)
    prog = f"{program} {recipe}"
    # torchrun starts a run's lost processes with the command that it was started with.
    again = launch.restarted() > 0 and seen.out is not None and (Path(seen.out) / "config.toml").is_file()
    if seen.resume or again:
        return _resumed(recipe, seen.out, argv, prog, again=again), []
    file = None if seen.config is None else Path(seen.config)
    kind, values, notes, _ = settings.layers(recipe, data=seen.data, preset=seen.preset, config=file)
    return replace(_flags(kind, _unchecked(kind, values), argv, prog), config=None), list(notes)


def _early(argv: Sequence[str]) -> argparse.Namespace:
    """The flags that choose defaults: tyro takes its defaults before it reads a flag."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--data", "--preset", "--config", "--out"):
        early.add_argument(flag, nargs="?")  # a missing value is tyro's to report
    early.add_argument("--resume", action="store_true")
    seen, _ = early.parse_known_args([a for a in argv if a not in ("-h", "--help")])
    return seen


def _unchecked(kind: type[TrainConfig], values: Mapping[str, Any]) -> TrainConfig:
    """A carrier of defaults: only what the flags make of them must be consistent."""
    carrier = object.__new__(kind)
    for field in fields(kind):
        object.__setattr__(carrier, field.name, values.get(field.name, field.default))
    return carrier


def _flags(kind: type[TrainConfig], default: TrainConfig, argv: Sequence[str], prog: str) -> TrainConfig:
    _demand_flags(kind, argv)
    return _parsed(lambda: tyro.cli(kind, args=list(argv), default=default, prog=prog), prog)


def _demand_flags(kind: type[TrainConfig], argv: Sequence[str]) -> None:
    """Refuse the flags of other recipes that cannot be had here."""
    for flag in argv:
        if reason := kind.refuses().get(flag.partition("=")[0].removeprefix("--").replace("-", "_")):
            raise InputError(reason)


def _resumed(recipe: str, out: str | None, argv: Sequence[str], prog: str, *, again: bool) -> TrainConfig:
    """The configuration that a run was started with; flags may change what a continuation may change."""
    from graphscale.places import newest, stored

    place = Path(out) if out is not None else newest(recipe)
    known, kept = stored(place)
    if known != recipe:
        raise InputError(f"{place} holds a run of {known}. Resume it with graphscale train {known} --resume.")
    config = _flags(type(kept), replace(kept, out=place, resume=True), argv, prog)
    if again:  # the file was read when the run began
        return replace(config, config=None)
    if config.config is not None:
        raise InputError(f"--config {config.config}: a resumed run goes on with its own settings. Leave --config out.")
    return config


def _parsed(parse: Callable[[], T], program: str) -> T:
    """What tyro makes of the arguments; what it refuses is said in one line, as all errors are."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return parse()
    except SystemExit as stop:
        if not stop.code:
            raise  # the help
        below: BaseException | None = stop
        while below is not None and not isinstance(below, InputError):
            below = below.__cause__ or below.__context__
        raise InputError(below or f"{_fact(box.getvalue())}. See {program} --help.") from None


def _fact(box: str) -> str:
    """The first paragraph inside tyro's frame; all there is where it draws none."""
    inside = [line.strip("│ ") for line in box.splitlines() if line.startswith("│")] or box.split()
    return " ".join(takewhile(lambda line: set(line) != {"─"}, inside)).rstrip(". ")


def _dispatch(argv: Sequence[str]) -> int:
    if argv[:1] == ["--version"]:
        print(__version__)
        return 0
    if argv[:1] in (["train"], ["show"], ["advise"], ["tune"]) and argv[1:2] not in (["-h"], ["--help"]):
        recipe = _recipe(argv)
        if argv[0] == "tune":
            return _tune(recipe, argv[2:])
        config, notes = resolve(recipe, argv[2:], f"{PROGRAM} {argv[0]}")
        if argv[0] == "advise":
            return _advise(config, notes)
        return _train(recipe, config, notes, argv[2:]) if argv[0] == "train" else _show(recipe, config, notes)
    # tyro calls what it is given; a command runs after the parsing, outside its treatment of errors.
    commands: dict[str, Callable[..., int]] = {
        "list": list_names,
        "show": show,
        "train": train,
        "advise": advise,
        "tune": tune,
        "evaluate": evaluate,
        "prepare": tools.prepare,
        "prepare-events": tools.prepare_events,
        "prepare-tasks": tools.prepare_tasks,
        "generate": tools.generate,
        "info": tools.info,
        "predict": tools.predict,
        "export": tools.export,
        "adapt": tools.adapt,
    }
    command = _parsed(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {name: _later(run) for name, run in commands.items()},
            prog=PROGRAM,
            description="Train graph networks past the limits of the machine.",
            args=list(argv),
        ),
        PROGRAM,
    )
    code: int = command()
    return code


def _recipe(argv: Sequence[str]) -> str:
    """The recipe of train, show, advise or tune: it stands before all flags, because it decides which there are."""
    name = argv[1] if len(argv) > 1 else "-"
    if name in catalog.RECIPES:
        if argv[0] == "advise" and name != "pres":
            raise InputError(
                f"there is no advice for {name}: it is on how many events of a stream make a batch, and only pres has"
                f" streams. Use graphscale advise pres, or see graphscale show {name}."
            )
        return name
    fact = f"{argv[0]} needs a recipe before all flags" if name.startswith("-") else f"no recipe '{name}'"
    raise InputError(f"{fact}. There are: {', '.join(catalog.RECIPES)} (graphscale list).")


def _later(run: Callable[..., int]) -> Callable[..., Callable[[], int]]:
    @functools.wraps(run)
    def with_arguments(*args: Any, **keywords: Any) -> Callable[[], int]:
        return functools.partial(run, *args, **keywords)

    return with_arguments


def _first_speaks() -> None:
    """Other ranks wait: the first one says the same, and the launcher then ends them."""
    if "graphscale.world" in sys.modules and not sys.modules["graphscale.world"].leading():
        time.sleep(10)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except InputError as error:
        _first_speaks()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # one line, whatever a library said
        return launch.ends(2)
    except DivergenceError as error:
        _first_speaks()
        print(f"error: {error}", file=sys.stderr)
        return launch.ends(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: the disk is full{where}: {error.strerror}. Free some room, or choose another.", file=sys.stderr)
        return 1
