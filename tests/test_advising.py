"""Advice on the size of batches: what the ladder says, how a size is chosen, what is refused, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from graphscale import configure
from graphscale.__main__ import main
from graphscale.advising import COHERENT, LARGEST, PENDING, Rung, advise, chosen, ladder
from graphscale.errors import DivergenceError, InputError
from graphscale.recipes import pres

SMALL = ("--data", "planted-stream:3000", "--dim", "8", "--time-dim", "4", "--threads", "1")
TINY = configure("pres", data="planted-stream:3000", dim=8, time_dim=4, threads=1)


def test_a_ladder_doubles_up_to_a_tenth_of_the_events():
    assert ladder(200) == [50]
    assert ladder(999) == [50]
    assert ladder(1000) == [50, 100]
    assert ladder(10**9) == [50 << k for k in range(9)]
    assert ladder(10**9)[-1] == LARGEST
    with pytest.raises(InputError, match="199 events .* 200 or more"):
        ladder(199)


def rung(size, pending=0.1, low=0.9, bound=0.5):
    return Rung(size, 10, pending, 1.0, 1.0, low, low, bound)


@pytest.mark.parametrize(
    ("above", "says"),
    [
        (rung(200, pending=PENDING + 0.01), "at 200 76% of the ends are pending"),
        (rung(200, low=COHERENT - 0.01), "at 200 low mu is 0.49"),
        (rung(200, bound=1.2), "at 200 the bound is 1.20"),
    ],
    ids=["pending", "mu", "bound"],
)
def test_the_largest_size_within_all_three_is_chosen_and_the_reason_given(above, says):
    size, reason = chosen([rung(50, bound=1.0), rung(100), above])
    assert size == 100 and says in reason
    assert chosen([rung(50, bound=1.0), above, rung(400)])[0] == 400  # a size below that does not is no obstacle


def test_without_any_size_within_them_the_smallest_is_chosen():
    size, reason = chosen([rung(50, pending=0.9, bound=1.0), rung(100, pending=0.95)])
    assert size == 50 and reason.startswith("no size")


def test_every_rung_says_what_is_so():
    config = replace(TINY, see="fresh", batch_size=777)
    advice, views = advise(config), pres.read(config)
    assert [r.batch_size for r in advice.rungs] == [50, 100, 200]
    assert (advice.trained, advice.measured) == (views.numbers.numel() - 200, 200)
    for r in advice.rungs:
        cut = views.numbers.split(r.batch_size)
        ends = [torch.cat([views.events.src[part], views.events.dst[part]]) for part in cut]
        distinct, total = sum(e.unique().numel() for e in ends), sum(e.numel() for e in ends)
        assert r.batches == len(cut)
        assert r.pending == pytest.approx(1 - distinct / total)
        assert r.events_a_node == pytest.approx(total / distinct)
        assert r.mu_least <= r.mu_low
        bound = (len(cut) / advice.rungs[0].batches) ** 0.5
        bound *= (min(1.0, advice.rungs[0].mu_low) / min(1.0, r.mu_low)) ** 2
        assert r.bound == pytest.approx(bound)
    assert advice.batch_size in [r.batch_size for r in advice.rungs]


def test_advice_follows_from_the_seed_and_changes_no_global_draw():
    config = replace(TINY, model="apan", gamma="0.8", spread=True)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = advise(config)
    assert torch.equal(torch.rand(2), expected)
    assert first == advise(config)
    assert first.rungs != advise(replace(config, seed=1)).rungs


def test_what_cannot_be_advised_is_refused():
    with pytest.raises(InputError, match="tgat has no memory"):
        advise(configure("pres", data="planted-stream:3000", model="tgat"))
    with pytest.raises(InputError, match="--cut tbatch"):
        advise(configure("pres", data="planted-stream:3000", cut="tbatch"))
    with pytest.raises(InputError, match="70 events .* too few"):
        advise(configure("pres", data="planted-stream:100"))


def test_a_training_that_diverges_says_so():
    with pytest.raises(DivergenceError, match="Lower --lr"):
        advise(replace(TINY, lr=1e38))


def test_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "pres", *SMALL, "--json"]) == 0
    out = capsys.readouterr().out
    said = json.loads(out)  # one object, nothing beside it
    assert [r["batch_size"] for r in said["rungs"]] == [50, 100, 200]
    assert said["recipe"] == "pres" and said["thresholds"] == {"pending": PENDING, "mu_low": COHERENT}
    assert main(["advise", "pres", *SMALL]) == 0
    out = capsys.readouterr().out
    assert f"--batch-size {said['batch_size']}: {said['reason']}" in out
    assert "pending" in out
    assert list(tmp_path.iterdir()) == []  # no run is made


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["gas"], "there is no advice for gas"),
        (["nothing"], "no recipe 'nothing'"),
        ([], "advise needs a recipe"),
        (["pres", "--gamma", "2"], "--gamma 2"),
        (["pres", "--data", "nowhere"], "no stream 'nowhere'"),
    ],
    ids=str,
)
def test_wrong_use_is_2_with_a_line(capsys, argv, says):
    assert main(["advise", *argv]) == 2
    out, err = capsys.readouterr()
    assert says in err and out == "" and len(err.splitlines()) == 1
