"""PRES: memory-based networks over event streams in large batches (Su, Zou, Wu; ICLR 2024), and those networks plain.

| in the paper                                   | here                                    |
|------------------------------------------------|-----------------------------------------|
| temporal batches, one behind (figure 1)        | ``batches.stream``                      |
| memory and messages (equation 1; TGN's)        | ``tables.memory``, ``nn.memories``      |
| APAN's mailbox                                 | ``tables.mailbox``                      |
| prediction, equation (7); statistics, (9)      | ``tables.predictive``                   |
| correction, equation (8)                       | ``nn.memories.Correction``              |
| memory coherence as a penalty, equation (10)   | ``kernels.corrections.incoherence``     |
| pending events, definition 2                   | ``stream_monitors.pending_share``       |
| memory coherence mu, equation (4), measured    | ``stream_coherence``                    |

``--gamma 1 --beta 0`` is the plain network, bit for bit. Where paper and code disagree ``tables.predictive`` says what
is done; the corrected memory is what is embedded (figure 8; algorithm 2 embeds the uncorrected one, from which no
gradient of the task would reach gamma) and what is written back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from graphscale.config import TrainConfig
from graphscale.errors import InputError

if TYPE_CHECKING:
    from graphscale.nn.temporal import TemporalNet
    from graphscale.run import Run, Scores
    from graphscale.stream_views import StreamViews
    from graphscale.tables.memory import Memory

_SHAPES = {"tgn": ("gru", "attention"), "jodie": ("rnn", "time"), "apan": ("mail", "identity"),
           "tgat": ("none", "attention")}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PRESConfig(TrainConfig):
    """Networks over a stream of events, with or without PRES's prediction, correction and coherence."""

    data: str = "planted-stream:20000"
    """A stream under $GRAPHSCALE_DATA, a .parquet or .csv file, planted-stream:EVENTS, or PyG's JODIEDataset:Name."""
    epochs: int = 10
    """Passes over the training events, each with an empty memory at its start."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    task: Literal["links", "states"] = "links"
    """Foretell who meets whom, or the state of the source at every event (the column label)."""
    model: Literal["tgn", "jodie", "apan", "tgat"] = "tgn"
    """TGN; JODIE; APAN; or TGAT, which has no memory, as a control."""
    embed: Literal["attention", "sum", "time", "identity"] | None = None
    """How a node is embedded, in place of the model's own way."""
    update: Literal["gru", "rnn"] | None = None
    """How a memory takes in messages, in place of the model's own way."""
    dim: int = 100
    """Numbers of a memory and of an embedding."""
    time_dim: int = 100
    """Numbers of an encoded time."""
    frequencies: Literal["fixed", "learned"] = "fixed"
    """Of encoded times. TGN learns them, which loses the slow ones at once (nn/memories.py)."""
    heads: int = 2
    """Attention heads; --dim must be a multiple."""
    dropout: float = 0.1
    """Probability, on attention weights."""
    fanout: str = "10"
    """Events sampled a node at hop 1, 2, ..., one hop a layer; 0 hops where the embedding looks at memory alone."""
    neighbors: Literal["recent", "uniform"] = "recent"
    """The latest events of a node, or any of its past."""
    batch_size: int = 200
    """b: events a batch, of --cut count and capped."""
    cut: Literal["count", "window", "capped", "tbatch"] = "count"
    """Batches of b events; of a stretch of time; of at most b and few pending ends; or JODIE's t-batches."""
    window: float = 0.0
    """Length of the stretch, in the stream's unit of time, for --cut window."""
    pending: float = 0.2
    """Share of ends with an earlier event in the batch at which --cut capped ends one."""
    see: Literal["lag", "fresh"] = "lag"
    """Whether an event sees what came before its batch, or all events before itself. Memories lag in either case."""
    directed: bool = False
    """A node's neighbours are the sources of its events alone."""
    messages: Literal["late", "snapshot"] = "late"
    """Whether a message reads the other end's memory when it is taken in (PyG) or when it is sent (the authors)."""
    aggregate: Literal["last", "mean"] | None = None
    """What a node takes in of several pending events: by default the last; in APAN, of a batch's mails, their mean."""
    mails: int = 10
    """Mails that a node keeps, in APAN."""
    mailed: int = 10
    """Recent neighbours of a node to which its mails go as well, in APAN."""
    memory: Literal["ram", "disk"] = "ram"
    """Where memories lie; on disk they may be larger than RAM."""
    gamma: str = "1"
    """Weight of the measured memory in the correction, in [0, 1]; learn makes it a parameter; 1 predicts nothing."""
    embed_from: Literal["corrected", "measured"] = "corrected"
    """The memory that is embedded: the paper's figure 8 has the corrected one, its algorithm 2 the measured one."""
    write_back: Literal["corrected", "measured"] = "corrected"
    """The memory that is written back: the authors' code has the measured one."""
    beta: float = 0.0
    """Weight of the penalty on incoherent memory."""
    form: Literal["increment", "rate"] = "increment"
    """Whether a change of memory is foretold as such, or by the time that passes."""
    components: int = 1
    """Gaussians a node's changes are counted in, 1 or 2."""
    anchors: int | None = None
    """Nodes for which statistics are kept, each shared by several nodes; by default one a node."""
    spread: bool = False
    """Draw predictions from the Gaussian in place of its mean."""
    val: float = 0.15
    """Share of events, by time, for validation."""
    test: float = 0.15
    """Share of events, the last ones, for the test."""
    new: float = 0.0
    """Share of the nodes of validation and test that training does not see, to score unseen nodes."""
    negatives: Literal["random", "historical", "inductive"] = "random"
    """Destinations beside which an event is ranked: any; those its source met in training; or since, but not in it."""
    ranked: int = 20
    """Negatives an event in evaluation; AP and AUC take the first."""
    exclude: bool = False
    """Draw a negative of training again that is the true destination."""
    eval_batch: int = 200
    """Events a batch in evaluation, whatever training's are: scores depend on it."""

    mu_every: int = 0
    """Epochs between two measurements of the memory's coherence mu; 0 measures none. Training is the same."""

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        self.demand(("dim", "time_dim", "heads", "batch_size", "ranked", "eval_batch", "anchors", "mails"),
                    lambda v: v > 0, "must be above 0")  # fmt: skip
        self.demand(("dropout", "new", "pending"), lambda v: 0 <= v < 1, "must lie in [0, 1)")
        self.demand(("window",), lambda v: 0 <= v < float("inf"), "must be finite and not negative")
        self.demand(("val", "test"), lambda v: 0 < v < 1, "must lie in (0, 1)")
        self.demand(("beta",), lambda v: 0 <= v < float("inf"), "must be finite and not negative")
        self.demand(("components",), lambda v: v in (1, 2), "must be 1 or 2")
        if self.split or self.undirected or self.scaling != "none":
            raise InputError("--split, --undirected and --scaling are of static graphs. Leave them out.")
        if self.val + self.test >= 1:
            raise InputError(f"--val {self.val} and --test {self.test} leave nothing to train on. Lower one.")
        if (self.cut == "window") != (self.window > 0):
            raise InputError("--window is the length of --cut window's batches. Give both, or neither.")
        if self.aggregate == "mean" and self.messages == "snapshot":
            raise InputError(
                "--messages snapshot keeps one memory of another end a node, and --aggregate mean needs one an event."
                " Leave out one."
            )
        self._refuse_idle()
        if self.model == "tgat" and not self.fanouts():
            raise InputError(f"--embed {self.embed} looks at memory alone, and tgat has none. Leave it out.")
        if self.embed_from == self.write_back == "measured":
            raise InputError(
                "--embed-from measured and --write-back measured leave nothing to the correction. Leave out one."
            )
        if self.embed_from == "measured" and self.gamma == "learn" and not self.beta:
            raise InputError(
                "--embed-from measured gives --gamma learn no gradient. Give --beta, or a number as gamma."
            )
        if self.model == "tgat" and (self.predicts() or self.beta):
            raise InputError("tgat has no memory to predict or to keep coherent. Leave out --gamma and --beta.")
        self.demand(("mu_every", "mailed"), lambda v: v >= 0, "cannot be negative")
        if self.model == "tgat" and self.mu_every:
            raise InputError("tgat has no memory whose coherence could be measured. Leave --mu-every out.")
        if self.model in ("apan", "tgat") and self.update:
            raise InputError(f"{self.model} takes in no messages by a {self.update}. Leave --update out.")
        self.weight()
        self.fanouts()

    def _refuse_idle(self) -> None:
        """Flags that would do nothing."""
        usual = {f.name: f.default for f in fields(self)}

        def given(*names: str) -> list[str]:
            return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != usual[name]]

        if not self.predicts() and (
            idle := given("form", "components", "anchors", "spread", "embed_from", "write_back")
        ):
            raise InputError(f"{', '.join(idle)}: nothing is predicted at --gamma 1. Leave out, or give --gamma 0.5.")
        if self.model == "apan" and (idle := given("messages")):
            raise InputError(f"{', '.join(idle)}: apan's mails are snapshots. Leave out.")
        if self.model != "apan" and (idle := given("mails", "mailed")):
            raise InputError(f"{', '.join(idle)}: {self.model} has no mailbox. Leave out.")
        if self.model == "tgat" and (idle := given("aggregate", "messages", "memory")):
            raise InputError(f"{', '.join(idle)}: tgat has no memory. Leave out.")
        if not self.fanouts() and (idle := given("fanout", "neighbors", "directed", "see")):
            embed = self.embed or _SHAPES[self.model][1]
            raise InputError(f"{', '.join(idle)}: the embedding {embed} looks at memory alone. Leave out.")

        attends = "attention" in self.shape() or "mail" in self.shape()
        if not attends and (idle := given("heads", "dropout")):
            raise InputError(f"{', '.join(idle)}: nothing attends to anything in this network. Leave out.")
        if attends and self.dim % self.heads:
            raise InputError(f"--dim {self.dim} is not a multiple of --heads {self.heads}. Change one.")
        if self.cut != "capped" and (idle := given("pending")):
            raise InputError(f"{', '.join(idle)}: it is where --cut capped ends a batch. Leave out, or give that.")
        if self.task == "states" and (idle := given("negatives", "exclude")):
            raise InputError(f"{', '.join(idle)}: states are told from no negatives. Leave out.")

    def weight(self) -> float | None:
        """Gamma as a number; None where it is learned.

        Raises:
            InputError: where it is neither.
        """
        if self.gamma == "learn":
            return None
        try:
            number = float(self.gamma)
        except ValueError:
            number = -1.0
        if not 0 <= number <= 1:
            raise InputError(f"--gamma {self.gamma}: a number in [0, 1] or learn is needed. Change it.")
        return number

    def predicts(self) -> bool:
        """Whether a memory is predicted and corrected."""
        return self.weight() != 1.0

    def shape(self) -> tuple[str, str, int]:
        """(update, embedding, layers) of the network."""
        update, embed = _SHAPES[self.model]
        embed = self.embed or embed
        return self.update or update, embed, len(self.fanouts())

    def fanouts(self) -> tuple[int, ...]:
        """``fanout`` as numbers; none where the embedding looks at memory alone.

        Raises:
            InputError: where it is no list of numbers above 0.
        """
        if (self.embed or _SHAPES[self.model][1]) in ("time", "identity"):
            return ()
        try:
            numbers = tuple(int(part) for part in self.fanout.split(","))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            raise InputError(f"--fanout {self.fanout}: numbers above 0 are needed, one a hop, such as 10 or 10,10.")
        return numbers

    @classmethod
    def protocol(cls) -> tuple[str, ...]:
        """What is foretold, which events are scored, and beside what."""
        return (*TrainConfig.protocol(), "task", "val", "test", "new", "negatives", "ranked", "eval_batch")

    @classmethod
    def refuses(cls) -> dict[str, str]:
        """Sub-networks, with the reason."""
        reason = (
            "pres cannot be cut into sub-networks: a memory holds the units of one sub-network, which mean others to"
            " the next. Use gist without memory, or pres with replicas (--nproc)."
        )
        return dict.fromkeys(("num_subnets", "every", "local_sgd"), reason)

    def composition(self) -> str:
        """The run as a sentence of its parts."""
        update, embed, _ = self.shape()
        corrected = f" + correct({self.gamma}, {self.form})" if self.predicts() else ""
        penalty = f" + {self.beta} coherence" if self.beta else ""
        cut = {
            "count": f"b={self.batch_size}", "window": f"{self.window:g} of time",
            "capped": f"b={self.batch_size}, {self.pending:g} pending", "tbatch": "t-batches",
        }[self.cut]  # fmt: skip
        memory = "no memory" if update == "none" else f"memory({update}, {self.messages}){corrected}"
        loss = "link_loss" if self.task == "links" else "state_loss"
        return f"stream({cut}, {self.see}) . {embed} . {memory} . {loss}{penalty} . replicas"


Config = PRESConfig
# What ``graphscale tune`` draws unless it is told.
SEARCH = {"lr": "1e-4..3e-3:log", "dim": "64,100,172", "dropout": "0..0.5:0.1"}


def read(config: PRESConfig) -> StreamViews:
    """The stream and its splits, once for all seeds."""
    from graphscale import stream_views

    return stream_views.read(config)


def build(config: PRESConfig, views: StreamViews, seed: int) -> Run:
    """The composed run of one seed."""
    from graphscale import stream_runs

    return stream_runs.build(config, views, seed)


def scores(config: PRESConfig, state: Mapping[str, Any]) -> Scores:
    """The scores of a checkpoint."""
    from graphscale import stream_runs

    return stream_runs.scores(config, state)


def baselines(config: PRESConfig) -> dict[str, Scores]:
    """EdgeBank and PopTrack, which need no training, under the protocol of a run."""
    from graphscale import stream_runs

    return stream_runs.baselines(config)


def restored(config: PRESConfig, state: Mapping[str, Any]) -> tuple[TemporalNet, Memory | None, StreamViews]:
    """The network of a checkpoint, its memory, and the stream."""
    from graphscale import stream_runs

    return stream_runs.restored(config, state)


def predicted(config: PRESConfig, state: Mapping[str, Any], *, hidden: bool) -> NoReturn:
    """Refuse: there is no prediction of a node by itself.

    Raises:
        InputError: always.
    """
    raise InputError(
        "predict writes a row a node, and a network over a stream foretells meetings at a moment. Use"
        " graphscale.live(RUN).score(src, dst, t) in Python."
    )
