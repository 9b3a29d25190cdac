"""GIST: the released small-scale protocol, width and speed on facebook, a network no process can hold, lost workers.

    GRAPHSCALE_DATA=... python benchmarks/gist.py [--work DIR] [--only TABLE ...] [--seeds S]

Every run is a folder under --work and is made once, so a stopped study goes on where it stopped. Writes
benchmarks/results/gist_DATE.md of what is there, with the plot of F1 over seconds, and ends with a JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from study import machine

from graphscale import probe
from graphscale.width.plan import coverage

RESULTS = Path(__file__).parent / "results"
HERE = Path(__file__).parent
Table = tuple[list[str], list[list[str]]]

# gcn/train_ist.py and script/sweep.py, without the random projection: epochs 400 / m, a tenth at 50 % and 75 %.
# The released code looks at the schedule when a round begins, so its drops come up to a round later than these.
RELEASED = {
    "preset": "none", "batches": "full", "model": "gist_models:Released", "dims": "h1=256,h2=256", "lr": 0.01,
    "weight-decay": 5e-4, "scaling": "row", "lr-drops": "0.5,0.75", "eval-every": 10,
}  # fmt: skip
WIDE = {
    "data": "facebook", "preset": "none", "layers": 3, "dropout": 0.2, "lr": 0.001, "scaling": "standard",
    "num-parts": 50, "parts-per-batch": 1,
}  # fmt: skip
# Passes by m. The paper gives sub-networks 1 / m of the baseline's: two for m = 8, where twice that is cheap still.
EPOCHS, WIDTHS = {1: 16, 2: 8, 4: 4, 8: 4}, (4096, 1024)
RATES: list[float] = [WIDE["lr"]]  # --rates: every way is run at each, and its best validation F1 chooses one


LAST_WORDS: list[str] = []  # of runs that failed


def command(recipe: str, out: Path, settings: dict[str, Any]) -> list[str]:
    """The run as a user types it."""
    flags = []
    for name, value in settings.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return [sys.executable, "-m", "graphscale", "train", recipe, *flags, "--threads", "1", "--out", str(out)]


def run(recipe: str, out: Path, settings: dict[str, Any], limit: int = 0) -> dict[str, Any] | None:
    """The result of a run, which is made where it is not there yet; None where it failed.

    Args:
        limit: bytes of each process's data segment.
    """
    if not (out / "result.json").is_file():
        ends = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) if limit else None
        done = subprocess.run(
            [*command(recipe, out, settings), "--overwrite"], preexec_fn=ends, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        )  # fmt: skip
        if done.returncode:
            print(done.stderr[-600:], flush=True)
            said = [line for line in done.stderr.splitlines() if "memory" in line.lower() or "Error" in line]
            LAST_WORDS.append(said[-1].strip()[-90:] if said else f"exit code {done.returncode}")
            return None
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def spread(values: list[float]) -> str:
    """Mean and deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):.2f} ± {100 * deviation:.2f}"


def small(work: Path, seeds: int) -> Table:
    """Cora and CiteSeer, three layers of 256, public split, scores after the last epoch."""
    lines = []
    for data in ("cora", "citeseer"):
        base = 0.0
        ways = [("baseline", 1, 100_000, {"carry": True})]
        ways += [(f"m = {m}, zeta = {zeta}", m, zeta, {}) for m in (2, 4, 8) for zeta in (1, 5, 20)]
        ways += [(f"m = {m}, zeta = 5, moments carried", m, 5, {"carry": True}) for m in (4, 8)]
        ways += [(f"m = {m}, zeta = 5, features cut too", m, 5, {"dims": f"x={FEATURES[data]},h1=256,h2=256"})
                 for m in (2, 4, 8)]  # fmt: skip
        for name, m, zeta, special in ways:
            settings = {**RELEASED, "data": data, "epochs": 400 // m, "num-subnets": m, "every": zeta, **special}
            place = name.replace(" ", "").replace(",", "-").replace("=", "")
            found = [run("gist", work / f"{data}-{place}-{s}", {**settings, "seed": s}) for s in range(seeds)]
            if None in found:
                lines.append([data, name, f"{found.count(None)} of {seeds} runs failed", *[""] * 4])
                continue
            test = [r["final"]["test"]["accuracy"] for r in found if r]
            loss = statistics.fmean(r["final"]["test"]["logloss"] for r in found if r)
            base = base or statistics.fmean(test)
            rounds = -(-settings["epochs"] // zeta)
            lines.append([
                data, name, spread(test), f"{100 * (statistics.fmean(test) - base):+.2f}", str(rounds),
                f"{coverage(m, rounds):.3f}", f"{loss:.2f}",
            ])  # fmt: skip
            print(lines[-1], flush=True)
    return ["data", "way", "test accuracy", "to the baseline", "rounds", "hidden matrices trained", "log loss"], lines


FEATURES = {"cora": 1433, "citeseer": 3703}


def wide(work: Path, seeds: int) -> Table:
    """facebook, GraphSAGE of three layers, Cluster-GCN batches of one of 50 parts, two processes of one thread each."""
    lines, curves = [], {}
    for width in WIDTHS:
        base: dict[str, Any] = {}
        replicas = work
        for m in (1, 8, 4, 2):
            # Scoring 22,470 nodes at full width takes more than a minute, on one process: two or four times a run.
            epochs, looks = EPOCHS[m], 4 if m in (1, 8) else 2
            settings = {**WIDE, "hidden": width, "epochs": epochs, "nproc": 2, "eval-every": epochs // looks}
            if m == 1:  # replicas: every process the whole width, gradients summed each step
                recipe, special = "cluster_gcn", {"model": "sage"}
            else:
                recipe, special = "gist", {"num-subnets": m, "every": 2}
            out, result = chosen(recipe, work / f"wide-{width}-{m}", {**settings, **special})
            if result is None:
                lines.append([str(width), str(m), "", "", "failed", *[""] * 7])
                if m == 1:
                    break  # nothing to compare with
                continue
            base = base or result
            curves[f"{width} wide, " + ("replicas" if m == 1 else f"m = {m}")] = curve(out)
            seconds = result["seconds"]["train"]
            first = base["final"]["test"]["f1_micro"]
            replicas = out if m == 1 else replicas
            goal = max(f1 for _, f1 in curve(replicas)) - 0.005
            sooner = reached(curve(out), goal)
            lines.append([
                str(width), str(m), str(EPOCHS[m]), str(result["config"]["lr"]), f"{seconds:.1f}",
                f"{base['seconds']['train'] / seconds:.1f}",
                f"{100 * result['final']['test']['f1_micro']:.2f}",
                f"{100 * (result['final']['test']['f1_micro'] - first):+.2f}",
                f"{100 * result['test']['f1_micro']:.2f}", "" if sooner is None else f"{sooner:.1f}",
                f"{moved(width, m, recipe):,.0f}", f"{result['peak_anon_mb']:.0f}",
            ])  # fmt: skip
            print(lines[-1], flush=True)
    plot(curves)
    header = [
        "width", "m", "epochs", "rate", "training, s", "times faster", "test F1, last epoch, %", "to replicas",
        "test F1 at the best validation, %", "s to the replicas' best validation F1 less half a point",
        "MB between processes", "peak anonymous MB",
    ]  # fmt: skip
    return header, lines


def chosen(recipe: str, out: Path, settings: dict[str, Any]) -> tuple[Path, dict[str, Any] | None]:
    """(Folder, result) of a way at the rate whose best validation F1 is highest; test scores have no say."""
    found: list[tuple[Path, dict[str, Any]]] = []
    for rate in RATES:
        place = out if rate == WIDE["lr"] else out.with_name(f"{out.name}-{rate}")
        result = run(recipe, place, {**settings, "lr": rate})
        if result is not None:
            found.append((place, result))
    return max(found, key=lambda way: way[1]["val"]["f1_micro"]) if found else (out, None)


def moved(width: int, m: int, recipe: str) -> float:
    """MB that training moved between two processes, by the formulas: gradients a step, or slices a round."""
    features, classes = 4714, 4
    edge, hidden = 2 * (features * width + width * classes), 2 * 2 * width * width // 2
    steps = EPOCHS[m] * 50
    if recipe == "cluster_gcn":
        return 8 * (edge + hidden) * steps / 2 / 1e6  # two batches a step
    rounds = -(-steps // 2)
    return 2 * 4 * m * (edge / m + hidden / m**2) / 2 * rounds / 1e6


def curve(out: Path) -> list[tuple[float, float]]:
    """(seconds of training so far, validation F1) after every epoch."""
    found, spent = [], 0.0
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        spent += line["seconds"]
        if line["scores"]:
            found.append((spent, line["scores"]["val"]["f1_micro"]))
    return found


def reached(points: list[tuple[float, float]], score: float) -> float | None:
    """Seconds after which a score is reached."""
    return next((seconds for seconds, f1 in points if f1 >= score), None)


def plot(curves: dict[str, list[tuple[float, float]]]) -> None:
    """F1 over seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(WIDTHS), figsize=(10, 4), sharey=True)
    for axis, width in zip(axes, WIDTHS, strict=True):
        for name, points in curves.items():
            if name.startswith(f"{width} "):
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.split(", ")[1])
        axis.set(xscale="log", xlabel="seconds of training", title=f"{width} wide", ylabel="validation F1")
        axis.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / f"gist_{date.today()}.png", dpi=110)


def ultra(work: Path, seeds: int) -> Table:
    """facebook, GraphSAGE 16,384 wide on two processes whose data segments are limited; scored by columns."""
    limit, lines = 7 << 30, []
    usual = {**WIDE, "hidden": 16_384, "epochs": 4, "eval-every": 4, "nproc": 2}
    ways = {
        "m = 8, scored by columns": ("gist", {"num-subnets": 8, "every": 5, "evaluate": "columns"}),
        "replicas": ("cluster_gcn", {"model": "sage"}),
        "plain, one process": ("cluster_gcn", {"model": "sage", "nproc": 1}),
    }
    for name, (recipe, special) in ways.items():
        result = run(recipe, work / f"ultra-{recipe}-{special.get('nproc', 2)}", {**usual, **special}, limit)
        if result is None:
            lines.append([name, LAST_WORDS[-1], "", "", ""])
        else:
            lines.append([
                name, f"{100 * result['final']['test']['f1_micro']:.2f}", f"{result['seconds']['train']:.0f}",
                f"{result['seconds']['evaluate']:.0f}", f"{result['peak_anon_mb']:.0f}",
            ])  # fmt: skip
        print(lines[-1], flush=True)
    header = [f"way, {limit >> 20} MiB a process", "test F1, %", "training, s", "evaluation, s", "peak anonymous MB"]
    return header, lines


def kills(work: Path, seeds: int) -> Table:
    """A worker killed three times in mid-round under restarts, beside an uninterrupted run."""
    settings = {**WIDE, "hidden": 256, "epochs": 6, "nproc": 2, "num-subnets": 4, "every": 10}
    whole = run("gist", work / "whole", settings)
    assert whole is not None
    out, draw = work / "killed", random.Random(0)
    subprocess.run(["rm", "-rf", str(out)], check=True)
    process = subprocess.Popen(
        command("gist", out, {**settings, "restarts": 3}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for kill in range(3):
        while (
            len((out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").is_file() else []) <= kill
        ):
            time.sleep(0.05)
        time.sleep(draw.uniform(0.2, 1.5))
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        os.kill(int(draw.choice(workers)), signal.SIGKILL)
        time.sleep(2)
    said = process.communicate()[0]
    lost = [line for line in said.splitlines() if line.startswith("restart") or "are done again" in line]
    assert all(int(line.split(" steps are done again")[0].split()[-1]) <= settings["every"] for line in lost), lost
    result = json.loads((out / "result.json").read_text())
    lines = [
        ["uninterrupted", f"{100 * whole['final']['test']['f1_micro']:.2f}", ""],
        ["killed three times", f"{100 * result['final']['test']['f1_micro']:.2f}", " / ".join(lost)],
    ]
    return ["run", "test F1, %", "said"], lines


TABLES: dict[str, Callable[[Path, int], Table]] = {"small": small, "wide": wide, "ultra": ultra, "kills": kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/gist"))
    parser.add_argument("--only", nargs="*", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rates", nargs="*", type=float, default=RATES, help="learning rates of the wide table")
    asked = parser.parse_args()
    RATES[:] = asked.rates
    asked.work.mkdir(parents=True, exist_ok=True)
    lines = [
        f"# GIST, {date.today()}",
        "",
        f"Machine: {machine()}. Versions: {json.dumps(probe.versions())}.",
        f"Command: `python benchmarks/gist.py --seeds {asked.seeds}`.",
    ]
    found: dict[str, list[list[str]]] = {}
    for name in asked.only:
        header, rows = TABLES[name](asked.work, asked.seeds)
        found[name] = rows
        lines += ["", f"## {name}", "", str(TABLES[name].__doc__), "", "| " + " | ".join(header) + " |"]
        lines += ["|" + "---|" * len(header), *("| " + " | ".join(row) + " |" for row in rows)]
    commits = sorted({json.loads(file.read_text())["commit"] for file in asked.work.glob("*/result.json")})
    lines += ["", f"Commits of the runs: {', '.join(map(str, commits))}."]
    if set(asked.only) == set(TABLES):
        (RESULTS / f"gist_{date.today()}.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))
    print(json.dumps({"benchmark": "gist", "machine": machine(), "tables": found}))


if __name__ == "__main__":
    main()
