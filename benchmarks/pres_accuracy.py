"""What networks over streams foretell: links, states, and PRES at four times the batch.

    GRAPHSCALE_DATA=... python benchmarks/pres_accuracy.py [--work DIR] [--only TABLE ...] [--seeds S] [--there]

What a run gave is a line of benchmarks/results/pres_runs.jsonl and is not made again, so a study that stopped goes on
where it stopped, on another machine too; ``--there`` makes none and shows what there is. Writes
benchmarks/results/pres_TABLES_DATE.md of the tables that were asked for, their plots, and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from pres import PyGTGN
from sklearn.metrics import roc_auc_score
from study import RESULTS, Ledger, Table, report
from torch import Tensor

from graphscale import advising, configure, heap, stream_runs
from graphscale.recipes import pres
from graphscale.stream_baselines import EdgeBank, PopTrack, baseline

Way = tuple[str, int, dict[str, Any]]  # (name, times the batch, settings)
Results = dict[int, dict[str, Any]]  # seed -> a line of the ledger
STREAMS = ("wikipedia_edges", "collegemsg", "ml-100k", "enron")
PEERS = STREAMS[:2]  # where PyG's modules are trained as well
MODELS: dict[str, dict[str, Any]] = {
    "TGN": {"model": "tgn"}, "JODIE": {"model": "jodie"}, "APAN": {"model": "apan"}, "TGAT": {"model": "tgat"},
}  # fmt: skip
USUAL: dict[str, Any] = {
    "preset": "none", "epochs": 10, "eval_every": 2, "patience": 10_000, "lr": 1e-3, "new": 0.1, "threads": 1,
}  # fmt: skip
LARGE = {**USUAL, "ranked": 1}
PRES, HALF = {"gamma": "learn", "beta": 0.1}, {"gamma": "0.5"}
# (name, times the batch, settings): b, 4 b plain, PRES with its parts, and the controls: steps, rate, frequencies.
WAYS: list[Way] = [
    ("plain, b", 1, {}),
    ("plain, 4 b", 4, {}),
    ("PRES, 4 b", 4, PRES),
    ("gamma 0.5, 4 b", 4, HALF),
    ("prediction only, 4 b", 4, {"gamma": "learn"}),
    ("penalty only, 4 b", 4, {"beta": 0.1}),
    ("plain, 4 b, as many steps", 4, {"epochs": 40, "eval_every": 8}),
    ("plain, 4 b, rate x 2", 4, {"lr": 2e-3}),
]
# What the paper leaves open, with TGN alone and on the smaller streams: frequencies, the weight, the form, the
# components, the rate, the steps, which memory is embedded and which is written, what a message reads.
OPEN: list[Way] = [
    ("plain, b, frequencies learned", 1, {"frequencies": "learned"}),
    ("PRES, 4 b, as many steps", 4, {**PRES, "epochs": 40, "eval_every": 8}),
    ("PRES, 4 b, rate x 2", 4, {**PRES, "lr": 2e-3}),
    ("plain, 4 b, rate x 4", 4, {"lr": 4e-3}),
    ("gamma 0.5, b", 1, HALF),
    ("gamma 0.2, 4 b", 4, {"gamma": "0.2"}),
    ("gamma 0.5, 4 b, two components", 4, {**HALF, "components": 2}),
    ("PRES, 4 b, two components", 4, {**PRES, "components": 2}),
    ("PRES, 4 b, by rate", 4, {**PRES, "form": "rate"}),
    ("PRES, 4 b, beta 1", 4, {"gamma": "learn", "beta": 1.0}),
    ("gamma 0.5, 4 b, measured memory embedded", 4, {**HALF, "embed_from": "measured"}),
    ("gamma 0.5, 4 b, measured memory written", 4, {**HALF, "write_back": "measured"}),
    ("plain, b, snapshots", 1, {"messages": "snapshot"}),
]
# Neighbours as the authors' TGN has them: an event sees those of its own batch too, and memories alone lag.
FRESH: list[Way] = [
    (f"{way}, fresh", times, {**special, "see": "fresh"})
    for way, times, special in (*WAYS[:4], ("gamma 0.5, b", 1, HALF))
]
SHOWN = ("ap", "auc", "mrr", "hits@10", "ap_new", "auc_new", "mrr_new")


class Study:
    """Runs that are made once.

    Args:
        seeds: 0, 1, ... of every setting.
        make: whether runs that are not there are made.
    """

    def __init__(self, work: Path, seeds: int, *, make: bool) -> None:
        self.ledger = Ledger(RESULTS / "pres_runs.jsonl", work, courses=("coherence_mu", "coherence_low"))
        self.seeds, self.make = seeds, make

    def runs(self, name: str, settings: dict[str, Any]) -> Results:
        """Of all seeds, or of those that are there."""
        made = {s: self.run(name, {**settings, "seed": s}) for s in range(self.seeds)}
        return {s: line for s, line in made.items() if line is not None}

    def run(self, name: str, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Of one seed; None where it is not there and none is made."""
        return self.ledger.result("pres", name, settings, run=self.make)

    def peers(self, data: str) -> Results:
        """PyG's modules by the protocol of ``links``: the epochs, the rate and the choice by validation AP."""
        made = {}
        for seed in range(self.seeds):
            settings = {"data": data, "batch_size": 200, **USUAL, "seed": seed}
            line = self.ledger.kept("PyG's TGN", settings, lambda s=seed: _peer(data, s) if self.make else None)
            if line is not None:
                made[seed] = line
        return made


def _peer(data: str, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = PyGTGN(200, data=data, new=USUAL["new"], lr=USUAL["lr"], seed=seed)
    found = []
    for epoch in range(USUAL["epochs"]):
        model.epoch()
        if (epoch + 1) % USUAL["eval_every"] == 0:
            found.append(model.scores())
    return max(found, key=lambda scores: scores["val"]["ap"])


def links(study: Study) -> Table:
    """Link prediction: batches of 200, ten epochs, test scores at the best validation AP; 10 % of nodes new."""
    if study.make:  # TGN and its peer first: a study that is stopped says something
        for (name, settings), data in itertools.product(MODELS.items(), STREAMS):
            study.runs(f"{data}-{name}", {"data": data, **USUAL, **settings})
            if name == "TGN" and data in PEERS:
                study.peers(data)
    lines = []
    for data in STREAMS:
        for name, settings in MODELS.items():
            found = study.runs(f"{data}-{name}", {"data": data, **USUAL, **settings})
            lines.append([data, name, *_means(found, SHOWN)])
        if data in PEERS:
            lines.append([data, "TGN, PyG's modules", *_means(study.peers(data), SHOWN)])
        config = configure("pres", data=data, **{k: v for k, v in USUAL.items() if k != "threads"})
        views = pres.read(config)
        drawn = stream_runs.ranked(config, views)
        for name, method in (("EdgeBank", EdgeBank()), ("PopTrack", PopTrack())):
            test = baseline(method, views.events, views.splits, drawn, views.known)["test"]
            lines.append([data, name, "", *(f"{100 * test[m]:.2f}" for m in SHOWN)])
    return ["stream", "model", "seeds", *SHOWN], lines


STATES = ("bitcoin_otc", "planted-stream:40000")
STATE_WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {**model, "batch_size": 200}) for name, model in MODELS.items()),
    ("TGN, 4 b", {"model": "tgn", "batch_size": 800}),
    ("TGN, PRES, 4 b", {"model": "tgn", "batch_size": 800, **PRES}),
    ("TGN, gamma 0.5, 4 b", {"model": "tgn", "batch_size": 800, **HALF}),
]


def states(study: Study) -> Table:
    """States of sources at their events: distrust (a rating below 0) and planted states; AUC, ten epochs, b = 200.

    Beside them the share of state 1 among the source's earlier events, which needs no training.
    """
    lines = []
    for data in STATES:
        settings = {k: v for k, v in USUAL.items() if k != "new"}
        for name, special in STATE_WAYS:
            found = study.runs(f"{data}-states-{name}", {"data": data, "task": "states", **settings, **special})
            lines.append([data, name, *_means(found, ("auc",))])
        views = pres.read(configure("pres", data=data, preset="none", task="states"))
        first, end = views.splits["test"]
        assert views.events.label is not None
        label = views.events.label.long()
        guess = _share_before(views.events.src.long(), label, float(label[: views.val].float().mean()))
        auc = 100 * float(roc_auc_score(label[first:end], guess[first:end]))
        lines.append([data, "share of the source's past", "", f"{auc:.2f}"])
    return ["stream", "model", "seeds", "test AUC"], lines


def _share_before(src: Tensor, label: Tensor, prior: float) -> Tensor:
    """[E] share of label 1 among the source's earlier events and one of the prior's."""
    order = src.argsort(stable=True)
    start = torch.searchsorted(src[order], src[order])  # where a source's events begin
    sums = torch.nn.functional.pad(label[order].cumsum(0), (1, 0))
    place = torch.arange(src.numel())
    share = torch.empty(src.numel())
    share[order] = (sums[place] - sums[start] + prior) / (place - start + 1)
    return share


def _ways(data: str, name: str) -> list[Way]:
    return WAYS + OPEN if name == "TGN" and data != STREAMS[0] else WAYS


def _large(data: str, name: str, times: int, special: dict[str, Any]) -> dict[str, Any]:
    return {"data": data, **LARGE, "batch_size": 200 * times, **MODELS[name], **special}


def _off(study: Study, data: str, name: str, way: Way, first: Way) -> tuple[Results, Results]:
    """A way's runs and, of the same seeds, those of the first way, plain b; none where either lacks all."""
    base, found = (study.runs("", _large(data, name, times, special)) for _, times, special in (first, way))
    both = sorted(set(found) & set(base))
    return {s: found[s] for s in both}, {s: base[s] for s in both}


def large_batches(study: Study) -> Table:
    """PRES: b = 200 and 4 b on three streams, evaluation in batches of 200 beside one negative, 10 epochs.

    Points to b: the mean over seeds of the difference of test APs, +- half its 95 % interval (Student's t).
    """
    streams = (STREAMS[1], STREAMS[2], STREAMS[0])  # small ones first
    names = list(MODELS)[:3]
    if study.make:  # all cases of a seed before the next one: a study that is stopped says something
        for seed in range(study.seeds):
            for data, name in itertools.product(streams, names):
                _made(study, data, name, _ways(data, name), seed)
    lines = [
        line
        for data, name in itertools.product(streams, names)
        for line in _lines(study, data, name, _ways(data, name))
    ]
    _convergence(study)
    return LARGE_HEADER, lines


def fresh(study: Study) -> Table:
    """As ``large_batches``, but that TGN's neighbours are seen fresh, in training and in evaluation."""
    streams = STREAMS[1:3]
    if study.make:
        for seed, data in itertools.product(range(study.seeds), streams):
            _made(study, data, "TGN", FRESH, seed)
    return LARGE_HEADER, [line for data in streams for line in _lines(study, data, "TGN", FRESH)]


LARGE_HEADER = ["stream", "model", "way", "seeds", "validation AP", "test AP", "test AP, new nodes", "points to b",
                "pending ends", "gamma"]  # fmt: skip


def _made(study: Study, data: str, name: str, ways: list[Way], seed: int) -> None:
    for way, times, special in ways:
        place = f"pres-{data}-{name}-{way.replace(' ', '').replace(',', '-')}"
        study.run(place, {**_large(data, name, times, special), "seed": seed})


def _lines(study: Study, data: str, name: str, ways: list[Way]) -> list[list[str]]:
    """A row a way, beside the first one."""
    lines = []
    for way in ways:
        found, base = _off(study, data, name, way, ways[0])
        if not found:
            continue
        off = [100 * (found[s]["test"]["ap"] - base[s]["test"]["ap"]) for s in found]
        measures = next(iter(found.values()))["measures"]
        gamma = measures.get("gamma")
        lines.append([
            data, name, way[0], *_means(found, ("ap",), "val"), *_means(found, ("ap", "ap_new"))[1:], _mean_of(off),
            f"{100 * measures['pending']:.0f} %", "" if gamma is None else f"{gamma:.2f}",
        ])  # fmt: skip
    return lines


def large_means(study: Study) -> Table:
    """Of ``large_batches``: a way's points to plain 4 b, validation and test, over streams and seeds, by model.

    +- half the 95 % interval of the mean over all pairs of runs of a stream and a seed.
    """
    lines = []
    cases = [(name, *way) for name in list(MODELS)[:3] for way in _ways(STREAMS[1], name)]
    for name, way, times, special in cases:
        off: dict[str, list[float]] = {"val": [], "test": []}
        for data in STREAMS[:3]:
            found = study.runs("", _large(data, name, times, special))
            base = study.runs("", _large(data, name, 4, {}))
            for split, seed in itertools.product(off, sorted(set(found) & set(base))):
                off[split].append(100 * (found[seed][split]["ap"] - base[seed][split]["ap"]))
        if off["test"]:
            lines.append([name, way, str(len(off["test"])), _mean_of(off["val"]), _mean_of(off["test"])])
    return ["model", "way", "pairs", "validation AP, points to plain 4 b", "test AP, points to plain 4 b"], lines


SHOWN_MU: list[Way] = WAYS[:4]


def coherence(study: Study) -> Table:
    """Memory coherence mu and pending ends by the size of batches (``advise``); mu over epochs, TGN on collegemsg."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (share, low, course) = plt.subplots(1, 3, figsize=(14, 4))
    lines = []
    for data in STREAMS[:3]:
        advice = advising.advise(configure("pres", data=data, preset="none"))
        sizes = [r.batch_size for r in advice.rungs]
        share.plot(sizes, [r.pending for r in advice.rungs], marker=".", label=data)
        (line,) = low.plot(sizes, [r.mu for r in advice.rungs], marker=".", label=f"{data}, mean")
        low.plot(sizes, [r.mu_low for r in advice.rungs], "--", color=line.get_color(), label=f"{data}, 5th percentile")
        lines += [
            [data, f"{r.batch_size:,}", f"{r.pending:.2f}", f"{r.mu:.2f}", f"{r.mu_low:.2f}"] for r in advice.rungs
        ]
    for way, times, special in SHOWN_MU:
        settings = {**_large("collegemsg", "TGN", times, special), "mu_every": 2}
        courses = [line["courses"] for line in study.runs(f"mu-{way}", settings).values()]
        if courses:
            epochs = list(courses[0]["coherence_mu"])
            mus, lows = (
                [statistics.fmean(c[name][e] for c in courses) for e in epochs]
                for name in ("coherence_mu", "coherence_low")
            )
            (line,) = course.plot([int(e) for e in epochs], mus, marker=".", label=way)
            course.plot([int(e) for e in epochs], lows, "--", color=line.get_color())
            last = f"last epoch, {len(courses)} seeds"
            lines.append([f"collegemsg: {way}", last, "", f"{mus[-1]:.2f}", f"{lows[-1]:.2f}"])
    for axis, title, x in (
        (share, "pending ends", "events a batch"), (low, "memory coherence mu", "events a batch"),
        (course, "mu on collegemsg, TGN (dashed: 5th percentile)", "epochs"),
    ):  # fmt: skip
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(x)
        axis.legend(fontsize=7)
        if axis is not course:
            axis.set_xscale("log")
    figure.tight_layout()
    figure.savefig(RESULTS / f"pres_coherence_{date.today()}.png", dpi=110)
    plt.close(figure)
    return ["stream", "batch", "pending ends", "mu", "mu, 5th percentile"], lines


def _convergence(study: Study) -> None:
    """Validation AP over epochs: b, 4 b, PRES and its parts at 4 b."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 3, figsize=(12, 9), sharex=True)
    for row, data in zip(axes, STREAMS[:3], strict=True):
        for axis, name in zip(row, list(MODELS)[:3], strict=True):
            for way, times, special in WAYS[:6]:
                curves = [line["curve"] for line in study.runs("", _large(data, name, times, special)).values()]
                if curves:
                    means = [100 * statistics.fmean(c[e] for c in curves) for e in curves[0]]
                    axis.plot([int(e) for e in curves[0]], means, marker=".", label=way)
            axis.set_title(f"{data}, {name}", fontsize=9)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("epochs")
    figure.supylabel("validation AP")
    figure.tight_layout()
    figure.savefig(RESULTS / f"pres_convergence_{date.today()}.png", dpi=110)
    plt.close(figure)


def _means(found: Results, metrics: tuple[str, ...], split: str = "test") -> list[str]:
    """Number of seeds, then mean and deviation of each metric in points."""
    if not found:
        return ["0", *[""] * len(metrics)]
    return [str(len(found)), *(_spread([100 * line[split][m] for line in found.values()]) for m in metrics)]


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.2f}"


def _mean_of(off: list[float]) -> str:
    """A mean with half its 95 % interval."""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(off) - 1)) / len(off) ** 0.5 * statistics.stdev(off) if len(off) > 1 else 0.0
    return f"{statistics.fmean(off):+.2f}" + (f" ± {half:.2f}" if half else "")


TABLES: dict[str, Callable[[Study], Table]] = {
    "links": links, "states": states, "large_batches": large_batches, "large_means": large_means, "fresh": fresh,
    "coherence": coherence,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/pres"))
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--there", action="store_true", help="make no run")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    heap.keep_freed()
    asked.work.mkdir(parents=True, exist_ok=True)
    study = Study(asked.work, asked.seeds, make=not asked.there)
    command = f"python benchmarks/pres_accuracy.py --only {' '.join(asked.only)} --seeds {asked.seeds}"
    made = {name: wraps(TABLES[name])(partial(TABLES[name], study)) for name in asked.only}
    report("pres_accuracy", "PRES and networks over streams", command, made)


if __name__ == "__main__":
    main()
