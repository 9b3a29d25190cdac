from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from graphscale import __version__, catalog, cli, session
from graphscale.__main__ import main
from graphscale.config import plain
from graphscale.errors import InputError
from graphscale.presets import PRESETS
from graphscale.recipes.cluster_gcn import ClusterGCNConfig

TINY = ("--data", "planted:200", "--num-parts", "4", "--hidden", "8", "--layers", "2", "--epochs", "3")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command line in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:  # tyro's help
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def outside(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, as a user starts it."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100, env=env)


# Help and listings are quick


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["list"],
        ["train", "--help"],
        ["train", "cluster_gcn", "--help"],
        ["show", "cluster_gcn"],
        ["advise", "--help"],
        ["advise", "pres", "--help"],
        ["tune", "--help"],
        ["tune", "cluster_gcn", "--help"],
    ],
)
def test_help_imports_neither_torch_nor_pyg(argv):
    program = f"""
        import sys
        from graphscale.cli import main
        try:
            code = main({argv!r})
        except SystemExit as stop:
            code = stop.code or 0
        heavy = sorted({{"torch", "torch_geometric", "numba", "sklearn", "optuna", "sqlalchemy"}} & set(sys.modules))
        print("HEAVY", heavy, code)
    """
    done = outside("-c", textwrap.dedent(program))
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr


def test_the_package_itself_is_light():
    done = outside("-c", "import sys, graphscale; dir(graphscale); print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert code == 0
    assert err == ""
    for command in ("list", "show", "train", "advise", "tune", "evaluate"):
        assert command in out


def test_help_of_a_recipe_explains_its_settings(run):
    code, out, _ = run("train", "cluster_gcn", "--help")
    assert code == 0
    assert "--num-parts" in out
    assert "clusters of the training graph" in out  # the field's docstring


def test_version(run):
    assert run("--version") == (0, f"{__version__}\n", "")


def test_list_names_everything_with_a_line_each(run):
    code, out, _ = run("list")
    assert code == 0
    lines = out.splitlines()
    for entries in (catalog.RECIPES, catalog.DATA, catalog.MODELS):
        for name, text in entries.items():
            assert any(line.split()[:1] == [name] and text in line for line in lines), name
    assert any("cora" in line and "82.5" in line for line in lines)  # a preset and its published number


# Exit codes


def test_done_is_0_and_the_module_runs_as_a_program(tmp_path):
    done = outside("-m", "graphscale", "train", "cluster_gcn", *TINY, "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["epochs"] == 3
    assert len(done.stdout.splitlines()) == 1  # all that is for people goes to standard error
    assert "Warning" not in done.stderr
    assert "run folder" in done.stderr


def own_model(folder: Path, name: str, body: str) -> str:
    """A module of the user's in ``folder``; its training forward passes run ``body`` with their number as ``k``."""
    program = f"""
        import signal
        import torch

        class Model(torch.nn.Module):
            def __init__(self, in_channels, out_channels):
                super().__init__()
                self.linear = torch.nn.Linear(in_channels, out_channels)
                self.k = 0

            def forward(self, x, edge_index):
                if self.training:
                    self.k += 1
                    k = self.k
                    {body}
                return self.linear(x)
    """
    (folder / f"{name}.py").write_text(textwrap.dedent(program))
    return f"{name}:Model"


def test_anything_else_is_1_with_a_traceback(tmp_path):
    model = own_model(tmp_path, "breaks", "raise ZeroDivisionError('inside the model')")
    done = outside(
        "-m", "graphscale", "train", "cluster_gcn", *TINY, "--model", model, "--out", str(tmp_path / "run"),
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    assert "ZeroDivisionError: inside the model" in done.stderr
    assert "Traceback" in done.stderr


def test_interrupted_is_130_and_what_was_trained_is_saved(run, tmp_path, monkeypatch):
    # Ctrl-C in the third epoch: four clusters, one a batch, so the ninth forward pass.
    model = own_model(tmp_path, "stops", "if k == 10: signal.raise_signal(signal.SIGINT)")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, err = run("train", "cluster_gcn", *TINY, "--epochs", "50", "--model", model, "--out", "run", "--json")
    assert code == 130
    assert err.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in err
    assert out == ""  # no result of half a run
    assert not Path("run/result.json").exists()
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == ["best.pt", "epoch-000002.pt"]
    # The best of the two epochs can be scored, and scores as it did.
    code, out, _ = run("evaluate", "run", "--json")
    assert code == 0
    scored = json.loads(out)
    assert {"val": scored["val"], "test": scored["test"]} == lines[scored["epoch"] - 1]["scores"]


def test_interrupted_before_the_first_evaluation_saves_the_weights_too(run, tmp_path, monkeypatch):
    model = own_model(tmp_path, "stops_early", "if k == 10: __import__('os').kill(__import__('os').getpid(), 2)")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, _ = run("train", "cluster_gcn", *TINY, "--eval-every", "3", "--model", model, "--out", "run")
    assert code == 130
    assert [p.name for p in Path("run/checkpoints").iterdir()] == ["epoch-000002.pt"]
    assert run("evaluate", "run")[0] == 2  # nothing was scored, so there is no best


def test_interrupted_in_the_second_seed_keeps_the_first(run, tmp_path, monkeypatch):
    # The model counts over all its instances: 3 epochs x 4 batches belong to the first seed.
    (tmp_path / "second.py").write_text(
        textwrap.dedent("""
            import torch
            seen = []
            class Model(torch.nn.Linear):
                def forward(self, x, edge_index):
                    if self.training:
                        seen.append(1)
                        if len(seen) == 14:
                            __import__('os').kill(__import__('os').getpid(), 2)
                    return super().forward(x)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, _ = run("train", "cluster_gcn", *TINY, "--seeds", "3", "--model", "second:Model", "--out", "run")
    assert code == 130
    first = json.loads(Path("run/seed-0/result.json").read_text())
    code, out, _ = run("evaluate", "run", "--json")
    assert code == 0
    assert json.loads(out)["test"] == first["test"]


# Where settings come from: flags win over the file, the file over the preset, the preset over the default


def resolved(*argv):
    return cli.resolve("cluster_gcn", [str(a) for a in argv], "graphscale train")


def test_defaults():
    assert resolved("--data", "planted:200")[0] == ClusterGCNConfig(data="planted:200")


def test_each_source_wins_over_the_one_before(tmp_path):
    assert ClusterGCNConfig().lr == 0.01 and ClusterGCNConfig().epochs == 100  # defaults that the preset changes
    (preset,) = [p for p in PRESETS["cluster_gcn"] if p.name == "cora"]
    assert preset.settings["epochs"] == 200 and preset.settings["hidden"] == 64
    file = tmp_path / "mine.toml"
    file.write_text('data = "cora"\nhidden = 32\nlr = 0.5\n')
    config, _ = resolved("--config", file, "--lr", "0.25")
    assert config.lr == 0.25  # flag over file
    assert config.hidden == 32  # file over preset
    assert config.epochs == 200  # preset over default
    assert config.patience is None  # default
    assert config.data == "cora"


def test_a_flag_wins_even_where_it_gives_the_default(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 7\nconcat = false\n")
    config, _ = resolved("--data", "planted:200", "--config", file, "--epochs", "100", "--concat")
    assert config.epochs == 100
    assert config.concat is True


def test_data_takes_its_preset_and_says_so(run):
    code, out, _ = run("show", "cluster_gcn", "--data", "cora")
    assert code == 0
    assert "# preset cora" in out
    assert "--preset none leaves it out" in out
    assert "epochs = 200" in out
    assert "preset = cora" in out


@pytest.mark.parametrize("argv", [["--data", "cora", "--preset", "none"], ["--data=cora", "--preset=none"]])
def test_preset_none_does_not(run, argv):
    code, out, _ = run("show", "cluster_gcn", *argv)
    assert code == 0
    assert "# preset" not in out
    assert "epochs = 100" in out


def test_training_says_the_preset(run):
    # digits has a preset; two flags keep it short.
    code, _, err = run("train", "cluster_gcn", "--data", "digits", "--epochs", "1", "--hidden", "4", "--out", "run")
    assert code == 0
    assert err.startswith("preset digits (")
    assert json.loads(Path("run/result.json").read_text())["config"]["preset"] == "digits"


def test_a_preset_by_name_brings_its_data_unless_told_otherwise():
    assert resolved("--preset", "citeseer")[0].data == "citeseer"
    config, _ = resolved("--preset", "citeseer", "--data", "planted:200")
    assert (config.data, config.epochs) == ("planted:200", 200)


def test_the_preset_belongs_to_the_data_that_wins(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('data = "cora"\n')
    assert resolved("--config", file)[0].preset == "cora"
    assert resolved("--config", file, "--data", "planted:200")[0].preset is None
    file.write_text('data = "planted:200"\n')
    assert resolved("--config", file, "--data", "cora")[0].preset == "cora"


def test_data_without_preset_takes_none():
    config, notes = resolved("--data", "planted:200")
    assert config.preset is None
    assert notes == []


# Every setting, from a flag and from a file

SAMPLES = {
    "save_seconds": 2.5, "resume": True, "profile": True, "nproc": 2, "prefetch": 0, "fanout": "3,4,5",
    "batch_size": 64, "data": "planted:300", "preset": "none", "split": 3, "undirected": True, "scaling": "row",
    "epochs": 7, "lr": 0.5,
    "weight_decay": 0.25, "clip": 2.5, "seed": 5, "seeds": 2, "monitor": "f1_macro", "patience": 4, "eval_every": 2,
    "device": "cpu", "precision": "bf16", "threads": 1, "out": Path("some/where"), "overwrite": True, "keep": 3,
    "save_every": 9, "json": True, "model": "gcn", "hidden": 16, "layers": 5, "dropout": 0.75, "heads": 2,
    "batches": "full", "num_parts": 12, "parts_per_batch": 3, "partitioner": "random", "setting": "inductive",
    "norm": "row+I", "diag_lambda": 0.5, "concat": False, "layer_norm": False, "residual": True, "precompute": True,
    "accelerate": False, "input_dropout": 0.25, "batch_norm": True, "decays": "a=0.5", "hops": 3, "alpha": 0.3,
    "theta": 1.5, "save_steps": 7, "restarts": 1,
}  # fmt: skip
WITH = {"input_dropout": {"model": "gcn"}, "batch_norm": {"model": "gcn"}}  # settings that need another


def test_the_samples_are_all_settings_and_differ_from_the_defaults():
    default = ClusterGCNConfig()
    assert set(SAMPLES) | {"config"} == set(default.__dataclass_fields__)
    assert all(getattr(default, name) != value for name, value in SAMPLES.items())


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"resume"}))  # a resumed run has its own
def test_every_setting_from_a_flag(name):
    value, flag = SAMPLES[name], name.replace("_", "-")
    argv = [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", value]
    more = WITH.get(name, {})
    argv += [text for key, other in more.items() for text in (f"--{key}", other)]
    config, _ = resolved("--preset", "none", *argv) if name != "preset" else resolved(*argv)
    assert config == ClusterGCNConfig(**{"preset": "none", **more, name: value})


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("dashes", [False, True])
def test_every_setting_from_a_file(name, dashes, tmp_path):
    value = SAMPLES[name]
    written = (
        str(value).lower() if isinstance(value, bool) else value if isinstance(value, int | float) else f'"{value}"'
    )
    file = tmp_path / "mine.toml"
    file.write_text(f"{name.replace('_', '-') if dashes else name} = {written}\n")
    more = WITH.get(name, {})
    config, _ = resolved("--config", file, "--preset", "none", *(f"--{k}={v}" for k, v in more.items()))
    assert config == ClusterGCNConfig(**{"preset": "none", **more, name: value})
    assert type(getattr(config, name)) is type(getattr(ClusterGCNConfig(**{**more, name: value}), name))


def test_a_whole_number_in_a_file_may_stand_for_a_number(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("lr = 1\nclip = 2\n")
    config, _ = resolved("--config", file, "--preset", "none")
    assert (config.lr, config.clip) == (1.0, 2.0)
    assert type(config.lr) is type(config.clip) is float


BAD_FILES = {
    "unknown key": ("learning_rate = 0.1", "learning_rate, which ClusterGCNConfig does not have.*lr"),
    "two unknown keys": ("a = 1\nb = 2", "a, b, which"),
    "a table": ("[train]\nepochs = 3", "train, which"),
    "a file in a file": ('config = "other.toml"', "config, which"),
    "text for a number": ('epochs = "many"', "epochs = 'many'; a whole number is needed"),
    "a fraction for a whole number": ("epochs = 1.5", "epochs = 1.5; a whole number"),
    "true for a number": ("epochs = true", "epochs = True; a whole number"),
    "true for a fraction": ("lr = true", "lr = True; a number"),
    "a number for true": ("concat = 1", "concat = 1; true or false"),
    "a number for text": ("data = 3", "data = 3; text is needed"),
    "a list": ("epochs = [1, 2]", r"epochs = \[1, 2\]; a whole number"),
    "text for a number without default": ('patience = "long"', "patience = 'long'; a whole number"),
    "a fraction without default": ("threads = 0.5", "threads = 0.5; a whole number"),
    "no choice": ('norm = "rows"', "norm = 'rows'; 'row' or .*'diag'.* is needed"),
    "out of range": ("epochs = 0", "--epochs 0: it must be above 0"),
    "not a number": ("lr = nan", "--lr nan: it must be above 0"),
    "damaged": ("epochs = = 3", "is not TOML: .*Write a line a setting"),
    "twice": ("epochs = 3\nepochs = 4", "is not TOML"),
    "another recipe": ('recipe = "gas"', "is for recipe gas, not cluster_gcn"),
    "unknown preset": ('preset = "imagenet"', "no preset 'imagenet'. It has: .*cora"),
}


@pytest.mark.parametrize(("content", "words"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_what_a_file_cannot_say_is_refused(content, words, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InputError, match=words):
        resolved("--config", file)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml cannot be read .*Check the path"):
        resolved("--config", tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        resolved("--config", tmp_path / "binary.toml")
    with pytest.raises(InputError, match="cannot be read"):
        resolved("--config", tmp_path)


def test_a_run_s_own_file_gives_the_same_result(run):
    flags = ("--scaling", "standard", "--dropout", "0.5", "--no-concat", "--norm", "sym", "--seed", "3", "--clip", "1")
    assert run("train", "cluster_gcn", *TINY, *flags, "--out", "one")[0] == 0
    assert run("train", "cluster_gcn", "--config", "one/config.toml", "--out", "two")[0] == 0
    one, two = (json.loads(Path(place, "result.json").read_text()) for place in ("one", "two"))
    for same in ("config", "val", "test", "final", "best_epoch", "partition", "parameters"):
        assert one[same] == two[same], same
    assert Path("one/config.toml").read_text() == Path("two/config.toml").read_text()


def test_the_command_line_and_python_give_the_same_result(run):
    assert run("train", "cluster_gcn", *TINY, "--out", "one")[0] == 0
    config = ClusterGCNConfig(data="planted:200", num_parts=4, hidden=8, layers=2, epochs=3, out=Path("two"))
    result = session.train("cluster_gcn", config)
    line = json.loads(Path("one/result.json").read_text())
    assert result["test"] == line["test"]
    assert result["config"] == line["config"]


# Output


def test_json_is_the_last_line_of_standard_output_and_the_file(run):
    code, out, _ = run("train", "cluster_gcn", *TINY, "--out", "run", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[-1]) == json.loads(Path("run/result.json").read_text())


def test_without_json_standard_output_stays_empty(run):
    _, out, err = run("train", "cluster_gcn", *TINY, "--out", "run")
    assert out == ""
    assert "cluster_gcn = clusters(q=1 of p=4, metis) . plain(cluster_gcn) . node_loss . replicas" in err
    assert "run folder: run" in err
    accuracy = json.loads(Path("run/result.json").read_text())["test"]["accuracy"]
    assert f"{100 * accuracy:.2f} %" in err  # percent on screens, fractions in files


def test_show_tells_what_would_happen_and_does_nothing(run, tmp_path):
    code, out, _ = run("show", "cluster_gcn", *TINY, "--batches", "full")
    assert code == 0
    assert "cluster_gcn = full batch . plain(cluster_gcn) . node_loss . replicas" in out
    told = dict(line.split(" = ", 1) for line in out.splitlines())
    config, _ = resolved(*TINY, "--batches", "full")
    assert {name: str(value) for name, value in plain(config).items()}.items() <= told.items()
    assert list(tmp_path.iterdir()) == []


def test_evaluate_prints_a_table_or_json(run):
    run("train", "cluster_gcn", *TINY, "--out", "run")
    result = json.loads(Path("run/result.json").read_text())
    code, out, _ = run("evaluate", "run", "--json")
    assert code == 0
    scored = json.loads(out)
    assert (scored["val"], scored["test"], scored["epoch"]) == (result["val"], result["test"], result["best_epoch"])
    code, out, _ = run("evaluate", "run")
    assert code == 0
    assert f"{100 * result['test']['accuracy']:.2f} %" in out


def test_threads(run, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run("train", "cluster_gcn", *TINY, "--threads", "3", "--out", "run")
    assert asked == [3]
    # The order of summation is part of a score, so an evaluation takes as many.
    run("evaluate", "run")
    assert asked == [3, 3]


# What a run says and where it ends


def test_flags_win_where_values_interact(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("parts_per_batch = 60\n")  # alone it would exceed the 50 parts of the default
    config, _ = resolved("--data", "planted:200", "--config", file, "--num-parts", "100")
    assert (config.parts_per_batch, config.num_parts) == (60, 100)
    file.write_text('model = "gcn"\nprecompute = true\n')
    assert resolved("--data", "planted:200", "--config", file, "--model", "cluster_gcn")[0].precompute
    with pytest.raises(InputError, match="--parts-per-batch 60 exceeds --num-parts 50"):
        file.write_text("parts_per_batch = 60\n")
        resolved("--data", "planted:200", "--config", file)


def test_divergence_is_an_error_that_says_what_to_do(run):
    code, _, err = run("train", "cluster_gcn", *TINY, "--lr", "1e30", "--out", "run")
    assert code == 1
    assert "error: training diverged in epoch" in err and "Lower --lr" in err
    assert "Traceback" not in err
    assert not Path("run/result.json").exists()


def test_the_best_weights_of_a_diverged_run_are_kept(run, tmp_path, monkeypatch):
    (tmp_path / "bursts.py").write_text(
        textwrap.dedent("""
            import torch
            steps = []
            class Model(torch.nn.Linear):
                def forward(self, x, edge_index):
                    steps.append(self.training)
                    return super().forward(x) * (float("nan") if self.training and sum(steps) > 9 else 1.0)
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = run("train", "cluster_gcn", *TINY, "--model", "bursts:Model", "--out", "run")
    assert code == 1
    assert "training diverged in epoch 3: its loss is nan; the best weights are of epoch" in err
    assert run("evaluate", "run")[0] == 0


def test_more_clusters_a_batch_than_metis_filled(run):
    # METIS leaves parts empty where they would hold a node or two.
    code, _, err = run(
        "train", "cluster_gcn", "--data", "planted:200", "--num-parts", "190", "--parts-per-batch", "190",
        "--hidden", "4", "--layers", "2", "--epochs", "1", "--out", "run",
    )  # fmt: skip
    assert code == 0
    there = json.loads(Path("run/result.json").read_text())["partition"]["num_parts"]
    assert there < 190
    assert f"note: {there} clusters hold a node: a batch takes all of them, not 190" in err


def test_scores_of_some_seeds_name_the_others(run):
    assert run("train", "cluster_gcn", *TINY, "--seeds", "3", "--out", "run")[0] == 0
    for file in Path("run/seed-1/checkpoints").iterdir():
        file.unlink()
    code, out, err = run("evaluate", "run", "--json")
    assert code == 0
    assert json.loads(out)["missing_seeds"] == [1]
    assert len(json.loads(out)["runs"]) == 2
    assert "note: no checkpoint yet of seed 1" in err


def test_a_run_knows_its_data_from_elsewhere(run, tmp_path, monkeypatch):
    from test_errors_of_input import write

    Path("data").mkdir()
    write("data/mine.npz")
    small = ("--num-parts", "3", "--hidden", "4", "--layers", "2", "--epochs", "1")
    assert run("train", "cluster_gcn", "--data", "data/mine.npz", *small, "--out", "run")[0] == 0
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert run("evaluate", tmp_path / "run")[0] == 0


def test_ctrl_c_during_the_imports(tmp_path):
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    done = outside("-m", "graphscale", "list", PYTHONPATH=str(tmp_path))
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted") and "Traceback" not in done.stderr


def test_an_ignored_ctrl_c_stays_ignored():
    import signal

    from graphscale.interrupt import Stop

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert not stop.wished
