"""What a user may set in any recipe. Imports neither torch nor PyG: the help must be quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from graphscale.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
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
    """Validation metric that picks the best epoch; by default accuracy, or f1_micro for several labels a node."""
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
    json: bool = False
    """Print the result as one JSON object, the last line of standard output."""

    def __post_init__(self) -> None:
        positive = ("epochs", "seeds", "eval_every", "keep", "save_every", "lr")
        self.demand(positive, lambda v: v > 0, "must be above 0")
        self.demand(("patience", "threads", "clip"), lambda v: v > 0, "must be above 0")
        self.demand(("seed", "split", "weight_decay"), lambda v: v >= 0, "cannot be negative")

    def demand(self, names: tuple[str, ...], holds: Any, what: str) -> None:
        """Refuse the first of the named values that is set and does not hold, by its flag.

        Raises:
            InputError: naming the flag.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not holds(value):
                raise InputError(f"--{name.replace('_', '-')} {value}: it {what}. Change the flag or the file.")


# Where a run lies and how it reports; not part of what it computes.
HOUSEKEEPING = ("config", "out", "overwrite", "json")


def plain(config: TrainConfig) -> dict[str, Any]:
    """The settings as numbers, strings and booleans; None where a value is not set."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in HOUSEKEEPING}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def checked(kind: type[TrainConfig], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values of a file or preset as keywords of ``kind``; dashes in names are underscores.

    Raises:
        InputError: on a name that is no setting.
    """
    known = {f.name for f in fields(kind)}
    named = {name.replace("-", "_"): value for name, value in values.items()}
    unknown = sorted(set(named) - known)
    if unknown:
        raise InputError(
            f"{source} sets {', '.join(unknown)}, which {kind.__name__} does not have."
            f" Its settings are: {', '.join(sorted(known - {'config'}))}."
        )
    return named
