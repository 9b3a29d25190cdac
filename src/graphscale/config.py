"""What a user may set in any recipe. Imports neither torch nor PyG: the help must be quick."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from graphscale.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values of the types that their fields name."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(hint, value):
                raise InputError(f"{flag(name)} {value!r}: {_needed(hint)} is needed. Change the value.")
            object.__setattr__(self, name, _converted(hint, value))

    @classmethod
    def refuses(cls) -> dict[str, str]:
        """Settings of others that cannot be had here, with the reason."""
        return {}

    def demand(self, names: tuple[str, ...], holds: Any, what: str) -> None:
        """Refuse the first of the named values that is set and does not hold, by its flag.

        Raises:
            InputError: naming the flag.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise InputError(f"{flag(name)} {value}: it {what}. Change the flag or the file.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Settings that every recipe shares."""

    data: str = "digits"
    """Built in (digits, planted:NODES), a name under $GRAPHSCALE_DATA, an .npz file, or PyG's Class:Name."""
    preset: str | None = None
    """Named settings with a published number; by default the one for --data, if any. "none": no preset."""
    config: Path | None = None
    """TOML file of settings. Flags win over it, and it wins over a preset."""
    split: int = 0
    """Which split, where the data has several."""
    undirected: bool = False
    """Add the reverse of every edge that lacks one."""
    scaling: Literal["none", "standard", "row"] = "none"
    """Features: as they are, standardised on the training nodes, or rows divided by their sum."""
    epochs: int = 100
    """Passes over the training graph."""
    lr: float = 0.01
    """Learning rate of Adam."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradient by Adam."""
    clip: float | None = None
    """Largest norm of the gradient."""
    seed: int = 0
    """Everything random follows from it: initial weights, partition, order, dropout."""
    seeds: int = 1
    """Number of runs, with seeds seed, seed + 1, ...; the result holds their mean and deviation."""
    monitor: str | None = None
    """Validation metric that picks the best epoch; by default accuracy, f1_micro of several labels, ap of links."""
    patience: int | None = None
    """Stop after so many epochs without a better validation score."""
    eval_every: int = 1
    """Epochs between two evaluations."""
    device: Device = "auto"
    """Where to compute; auto takes CUDA where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the forward and backward pass in bfloat16, with weights and evaluation in float32."""
    threads: int | None = None
    """Threads of torch on the CPU; by default torch's choice."""
    out: Path | None = None
    """Folder of the run; by default runs/RECIPE-DATA-TIME."""
    overwrite: bool = False
    """Replace a run that lies in --out."""
    keep: int = 1
    """Checkpoints to keep besides the best."""
    save_every: int = 50
    """Epochs between two checkpoints; one is always written at the end."""
    save_seconds: float = 300.0
    """Seconds between two checkpoints, inside an epoch too."""
    save_steps: int | None = None
    """Steps between two checkpoints; by default only epochs and seconds count. With --restarts, gist saves rounds."""
    restarts: int = 0
    """Times that processes are started again when one is lost; the run then goes on from its last checkpoint."""
    resume: bool = False
    """Go on with the run in --out, or with the newest under runs/, from its last checkpoint."""
    nproc: int = 1
    """Processes on this machine, a replica each; gradients are summed."""
    prefetch: int = 2
    """Batches made ahead by a thread while one trains; 0 makes each when it is needed."""
    profile: bool = False
    """Report where the time goes: a table by stage, a trace, and the machine's floor, in the run's profile/."""
    json: bool = False
    """Print the result as one JSON object, the last line of standard output."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if _is_file(Path(self.data)):  # a run is evaluated from other folders too
            object.__setattr__(self, "data", str(Path(self.data).resolve()))
        positive = ("epochs", "seeds", "eval_every", "keep", "save_every", "save_seconds", "save_steps", "nproc", "lr")
        self.demand((*positive, "patience", "threads", "clip"), lambda v: v > 0, "must be above 0")
        self.demand(("lr", "clip", "weight_decay", "save_seconds"), lambda v: v < math.inf, "must be finite")
        self.demand(("seed", "split", "weight_decay", "prefetch", "restarts"), lambda v: v >= 0, "cannot be negative")

    def lives(self) -> int:
        """How often lost processes are started again: as asked of us, or of torchrun."""
        return max(self.restarts, int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)))

    @classmethod
    def protocol(cls) -> tuple[str, ...]:
        """Settings that decide what is scored, or on what: scores under different ones do not compare."""
        return ("data", "split", "monitor")

    @property
    def elastic(self) -> bool:
        """Whether a run may be resumed by another number of processes."""
        return False

    def continues(self) -> tuple[str, ...]:
        """What may differ between a run and its continuation."""
        return CONTINUES

    def steps_a_save(self) -> int | None:
        """Steps between two checkpoints, where they are counted."""
        return self.save_steps


def flag(name: str) -> str:
    """A setting as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _is_file(path: Path) -> bool:
    """Whether ``data`` means a file or a store itself, not a name that is looked up elsewhere."""
    return (path.suffix == ".npz" and path.is_file()) or (path / "manifest.json").is_file()


# Where a run lies and how it reports; not part of what it computes.
HOUSEKEEPING = ("config", "out", "overwrite", "profile", "json", "resume", "nproc", "restarts")
# What may differ between a run and its continuation.
CONTINUES = ("epochs", "patience", "keep", "save_every", "save_seconds", "save_steps", "threads", "device", "prefetch")


def plain(config: TrainConfig) -> dict[str, Any]:
    """The settings as numbers, strings and booleans; None where a value is not set."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in HOUSEKEEPING}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def checked(kind: type[Settings], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values of a file or preset as keywords of ``kind``; dashes in names are underscores.

    Raises:
        InputError: on a name that is no setting, or a value of another type than the setting's.
    """
    known = {f.name for f in fields(kind)} - {"config"}  # a file does not name a file
    named = {name.replace("-", "_"): value for name, value in values.items()}
    for name in named.keys() & kind.refuses().keys():
        raise InputError(kind.refuses()[name])
    unknown = sorted(set(named) - known)
    if unknown:
        raise InputError(
            f"{source} sets {', '.join(unknown)}, which {kind.__name__} does not have."
            f" Its settings are: {', '.join(sorted(known))}."
        )
    hints = get_type_hints(kind)
    for name, value in named.items():
        if not _fits(hints[name], value):
            raise InputError(f"{source} sets {name} = {value!r}; {_needed(hints[name])} is needed. Change the value.")
    return {name: _converted(hints[name], value) for name, value in named.items()}


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value may stand for a setting of this type. NumPy's numbers may; True is no number."""
    for option in _options(hint):
        if get_origin(option) is Literal:
            fits = any(value == choice and type(value) is type(choice) for choice in get_args(option))
        elif option in (int, float):
            fits = _is_number(value, Real if option is float else Integral)
        else:
            fits = isinstance(value, (str, Path) if option is Path else option)
        if fits:
            return True
    return False


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _converted(hint: Any, value: Any) -> Any:
    """As the hint says: TOML writes whole numbers without a point, and has no paths."""
    options = _options(hint)
    if _is_number(value, Real):
        return float(value) if float in options else int(value)
    return Path(value) if isinstance(value, str) and Path in options else value


def _needed(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    words: list[str] = []
    for option in _options(hint):
        words += [repr(value) for value in get_args(option)] or [names.get(option, "")]
    return " or ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True)
class NodeConfig(TrainConfig):
    """Settings of recipes that classify the nodes of a static graph."""

    model: str = "cluster_gcn"
    """cluster_gcn (the paper's), gcn, sage, gat, gin, pna (PyG's), appnp, gcnii, or your module:callable."""
    hidden: int = 128
    """Width of the hidden layers."""
    layers: int = 3
    """Number of weight layers."""
    dropout: float = 0.2
    """Probability of dropout, before every linear layer."""
    input_dropout: float = 0.0
    """Probability of dropout on the features that a PyG model or your own is given; cluster_gcn has its own."""
    decays: str | None = None
    """Weight decay of parameters by a part of their name, over --weight-decay: "convs=0.01,lin.bias=0"."""
    heads: int = 8
    """Attention heads of gat; --hidden counts all of them."""
    hops: int = 10
    """Propagations of appnp."""
    alpha: float = 0.1
    """appnp: probability of return to the node itself; gcnii: share of the first layer in every other."""
    theta: float = 0.5
    """gcnii: the l-th convolution's identity weighs 1 - log(theta / l + 1)."""
    setting: Literal["transductive", "inductive"] = "transductive"
    """Inductive trains on the graph among the training nodes alone, and scores on the whole graph."""
    norm: Literal["row", "row+I", "self", "self+I", "diag", "sym"] = "diag"
    """A' of cluster_gcn: equations (1), (9), (10), (10)+(9), (10)+(11) of the paper, or Kipf's."""
    diag_lambda: float = 1.0
    """lambda of equation (11), for --norm diag."""
    concat: bool = True
    """Concatenate the node's own features in cluster_gcn: [A'X || X] W."""
    layer_norm: bool = True
    """LayerNorm after every hidden layer; appnp, gcnii and your own model are as they are."""
    batch_norm: bool = False
    """BatchNorm after every hidden layer of gcn, sage, gat, gin, pna and gcnii, in place of LayerNorm."""
    accelerate: bool = True
    """Run the layers of PyG models on the kernels of the house, where a trial gives the same values."""
    residual: bool = False
    """Equation (8), cluster_gcn only: add a hidden layer's input to its output, from the second layer on."""
    precompute: bool = False
    """cluster_gcn only: exact first layer, A'X over all training edges once instead of over the batch's."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.demand(("hidden", "layers", "heads", "hops", "theta"), lambda v: v > 0, "must be above 0")
        self.demand(("dropout", "input_dropout"), lambda v: 0 <= v < 1, "must lie in [0, 1)")
        self.demand(("alpha",), lambda v: 0 <= v <= 1, "must lie in [0, 1]")
        self.decay_of("")
        self.demand(("diag_lambda",), lambda v: v >= 0, "cannot be negative")
        if self.batch_norm and self.model in ("cluster_gcn", "appnp"):
            raise InputError(f"{self.model} has no BatchNorm. Leave --batch-norm out, or write it into your own model.")
        if self.model == "cluster_gcn" and self.input_dropout:
            raise InputError("cluster_gcn drops before every linear layer already. Leave --input-dropout out.")
        if self.model != "cluster_gcn" and (self.precompute or self.residual):
            raise InputError(
                f"--precompute and --residual belong to --model cluster_gcn; {self.model} runs unedited."
                " Leave them out, or write them into your model."
            )

    @classmethod
    def protocol(cls) -> tuple[str, ...]:
        """Which nodes are seen in training is of the protocol too."""
        return (*TrainConfig.protocol(), "setting")

    def decay_of(self, name: str) -> float:
        """The weight decay of a parameter: that of the last part in ``decays`` that its name contains.

        Raises:
            InputError: where ``decays`` is no list of part=number.
        """
        decay = self.weight_decay
        for item in (self.decays or "").split(",") if self.decays else ():
            part, _, number = item.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = -1.0
            if not (part.strip() and 0 <= value < math.inf):
                raise InputError(
                    f"--decays {self.decays}: '{item}' is no part=number. Give parts of parameters' names with a decay"
                    " of 0 or more, such as convs=0.01,lin=0."
                )
            decay = value if part.strip() in name else decay
        return decay
