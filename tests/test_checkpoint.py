from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch

from graphscale import checkpoint
from graphscale.errors import InputError


def state() -> dict:
    draw = torch.Generator().manual_seed(0)
    return {
        "epoch": 3,
        "model": {"weight": torch.randn(20, 30, generator=draw), "steps": torch.tensor(7)},
        "scaler": {},
        "name": "cluster_gcn",
        "scores": [0.5, None, True],
    }


def test_what_is_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "a.pt", state())
    loaded = checkpoint.load(tmp_path / "a.pt", needs=("epoch", "model"))
    expected = state()
    assert torch.equal(loaded.pop("model")["weight"], expected.pop("model")["weight"])
    assert loaded == expected


def test_an_optimiser_s_state_is_plain_data(tmp_path):
    model = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    adam.step()
    checkpoint.save(tmp_path / "a.pt", {"optimiser": adam.state_dict()})
    again = torch.optim.Adam(model.parameters())
    again.load_state_dict(checkpoint.load(tmp_path / "a.pt")["optimiser"])
    assert torch.equal(again.state_dict()["state"][0]["exp_avg"], adam.state_dict()["state"][0]["exp_avg"])


@pytest.mark.parametrize(
    ("write", "content"),
    [(checkpoint.write_aside, "no bytes"), (checkpoint.save, {"weight": torch.ones(1000), "bad": lambda: 0})],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, write, content):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        write(path, content)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a.pt", {"epoch": 1})

    def stop(state, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "a.pt", {"epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(tmp_path / "a.pt") == {"epoch": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_replaces_the_file(tmp_path):
    path = tmp_path / "file"
    checkpoint.write_aside(path, b"one")
    checkpoint.write_aside(path, b"two")
    assert path.read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


# Refusals


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint .*a\.pt.*Train it again"):
        checkpoint.load(tmp_path / "a.pt")
    with pytest.raises(InputError, match="no checkpoint"):
        checkpoint.load(tmp_path)


GARBAGE = [b"", b"hello world", b"\x80", b"\x80\x04.", b"PK\x03\x04", bytes(range(256)), pickle.dumps({"epoch": 1})]


@pytest.mark.parametrize("content", GARBAGE)
def test_other_formats(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt cannot be read as a checkpoint .*damaged or not ours") as caught:
        checkpoint.load(tmp_path / "a.pt")
    assert "\n" not in str(caught.value)


def test_a_file_cut_short(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, state())
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="damaged"):
            checkpoint.load(path)


def test_a_flipped_bit_never_reaches_the_weights(tmp_path):
    # torch.load does not compare checksums: it would load other weights without a word.
    path = tmp_path / "a.pt"
    checkpoint.save(path, state())
    content, weight = path.read_bytes(), state()["model"]["weight"]
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = checkpoint.load(path)
        except InputError:
            refused += 1
        else:  # padding between members
            assert torch.equal(loaded["model"]["weight"], weight)
    assert refused > 100


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_is_not_run(tmp_path):
    torch.save({"epoch": Bomb(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt cannot be read") as caught:
        checkpoint.load(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    assert "weights_only" not in str(caught.value)  # torch's advice to load it unsafely is not passed on


@pytest.mark.parametrize("content", [{"epoch": 1}, [1, 2], torch.ones(3)])
def test_a_file_that_lacks_what_is_needed(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"lacks .*model.*Use best\.pt"):
        checkpoint.load(tmp_path / "a.pt", needs=("epoch", "model"))
