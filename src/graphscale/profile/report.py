"""From numbers to what a person reads: ``report.md``, and the table on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from graphscale.profile.clock import BESIDE, STAGES
from graphscale.profile.summary import Summary

STAGE_HEAD = ("stage", "seconds", "share", "ms a step")

_EPOCHS = 20  # lines of the table of epochs; report.json has all


def stage_rows(made: Summary) -> list[tuple[str, str, str, str]]:
    """Cells of the table of stages: name, seconds in total, share of the steps, milliseconds a step."""
    total, mean = made["total"], made["mean"]
    rows = [
        (name, f"{value:.3f}", f"{value / total['seconds']:.1%}", f"{1e3 * mean['stages'][name]:.3f}")
        for name, value in total["stages"].items()
    ]
    whole = ("all steps", f"{total['seconds']:.3f}", "100.0%", f"{1e3 * mean['seconds']:.3f}")
    beside = [(f"beside: {name}", f"{total[name]:.3f}", "", "") for name in ("sample", *BESIDE)]
    return [*rows, whole, *beside]


def floor_line(made: Summary) -> str:
    """The floor in one line."""
    window = made["window"]
    if not window["counted_steps"]:
        return "The run ended before the steps whose work is counted: there is no floor."
    return (
        f"Floor of forward + backward: {1e3 * window['floor_seconds']:.2f} ms a step of"
        f" {1e3 * window['measured_seconds']:.2f} ms measured, {window['share']:.0%}"
    )


def markdown(made: Summary) -> str:
    """``report.md``."""
    parts = ["# Profile", _facts(made), "## Stages", _table(STAGE_HEAD, stage_rows(made)), _stage_notes(made)]
    parts += ["## Floor", *_floor(made), "## Epochs", *_epochs(made["epochs"])]
    return "\n\n".join(parts) + "\n"


def _facts(made: Summary) -> str:
    machine, total = made["machine"], made["total"]
    lines = [
        f"- {total['steps']} steps in {len(made['epochs'])} epochs, after step {made['begins_after_step']} of the run",
        f"- {made['device']}, {made['precision']}, {made['threads']} threads of torch",
        f"- copy: {machine['bytes_per_second'] / 1e9:.1f} GB/s read and written",
        f"- product of square matrices: {machine['flops_per_second'] / 1e9:.0f} GFLOP/s",
    ]
    if made["load"] is not None:
        lines.append(f"- load of the machine in the last minute: {made['load']:.1f} on {made['cores']} cores")
    if made["processes"] > 1:
        lines.append(f"- of {made['processes']} processes this is the leading one, rank 0, alone")
    return "\n".join(lines)


def _stage_notes(made: Summary) -> str:
    window, mean = made["window"], made["mean"]
    thread = "in the loop itself, so it is waited for" if not made["prefetch"] else "by a thread while the loop trains"
    notes = [
        "Seconds and shares are of all steps.",
        f"Milliseconds are means over {mean['steps']} steps ({mean['of']}): {_kinds(window)}.",
        f"`sample` is the making of batches, {thread}; `wait` is what the loop waited for them. `fetch` reads rows of"
        " tables and moves the batch to the device; `rest` is in no stage: releasing the last batch, and waiting for"
        " the interpreter that the thread holds while it makes the next.",
    ]
    if made["device"].startswith("cuda"):
        notes.append(
            "Every stage ends with a wait for the device, so that its time is that of its work; without --profile"
            " the stages overlap, and a step takes less."
        )
    return " ".join(notes)


def _kinds(window: Summary) -> str:
    (a, b), (c, d) = window["traced"], window["counted"]
    before = f"those before step {a} warm up; " if a > 1 else ""
    return f"{before}{a} to {b} are traced (trace.json) and {c} to {d} counted, which slows them down"


def _floor(made: Summary) -> list[str]:
    window = made["window"]
    if not window["counted_steps"]:
        return [floor_line(made)]
    rows = [
        (name, f"{w['flops'] / 1e9:.3f}", f"{w['bytes'] / 1e6:.2f}", f"{w['least_bytes'] / 1e6:.2f}")
        for name, w in window["work"].items()
    ]
    head = ("mean of a step", "GFLOP of products", "MB of aggregation", "MB, every row once")
    notes = (
        f"{floor_line(made)}. Were every row read once, as a cache of any size would have it:"
        f" {1e3 * window['least_floor_seconds']:.2f} ms, {window['least_share']:.0%}.\n\n"
        "The floor is the products' operations at the machine's rate plus the bytes of aggregation (a row an entry,"
        " indices, results) at the copy's. Caches can beat it. It leaves out all that is elementwise: activations,"
        " dropout, norms, the loss."
    )
    if not any(w["bytes"] for w in window["work"].values()):
        notes += " No aggregation ran on the kernels of the house: its bytes are not known, and are not in the floor."
    return [_table(head, rows), notes]


def _epochs(epochs: Sequence[Summary]) -> list[str]:
    columns = (*STAGES, "rest")
    head = ("epoch", "steps", "seconds", *columns, "sample", *BESIDE)
    shown = epochs if len(epochs) <= _EPOCHS else [*epochs[: _EPOCHS // 2], *epochs[-_EPOCHS // 2 :]]
    rows = [
        (str(e["epoch"]), str(e["steps"]), f"{e['seconds']:.3f}", *(f"{e['stages'][name]:.3f}" for name in columns),
         *(f"{e[name]:.3f}" for name in ("sample", *BESIDE)))
        for e in shown
    ]  # fmt: skip
    left = [f"The {len(epochs) - len(shown)} epochs in the middle are in report.json."] if shown is not epochs else []
    return [_table(head, rows), *left]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
