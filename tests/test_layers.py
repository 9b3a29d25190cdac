"""Imports point down. The layout is the architecture; this keeps it so."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import graphscale

ROOT = Path(graphscale.__file__).parent
LAYERS = tuple(
    line.split()
    for line in """
    errors config presets catalog rng heap probe mapped scratch csr edge_view feature_view soundness graph events \
    growing batch table tasks step world sharding kernels reach
    partitioning store data
    batches tables nn width
    objectives sync metrics task_metrics checkpoint profile
    run loop evaluation histories nodes node_runs seeing gist_advice gist_outputs gist_runs testing stream_scores \
    stream_baselines stream_coherence stream_monitors stream_runs stream_views \
    fewshot_views fewshot_scores fewshot_parts fewshot_baselines fewshot_runs adapt_tables adapting \
    task_preparing rating_scores rating_baselines rating_runs rating_adapt
    recipes
    folder profiling
    console prediction launch orphan interrupt settings places progress saving session outputs preparing \
    search_space study_config study study_result tuning advising observations online people api tools cli __main__
    """.strip().splitlines()
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


@cache
def modules() -> dict[str, Path]:
    return {p.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): p for p in ROOT.rglob("*.py")}


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules of the house that a file imports at run time, wherever in the file."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "graphscale":
            base = node.module.removeprefix("graphscale").removeprefix(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".strip(".")
                found.add(whole if whole in modules() or f"{whole}.__init__" in modules() else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("graphscale.") for a in node.names if a.name.startswith("graphscale.")}
    return frozenset(name for name in found if name)


def test_every_module_has_a_layer():
    tops = {name.split(".")[0] for name in modules()} - {"__init__"}
    assert tops == set(LEVEL)


def test_imports_point_down():
    for name, path in modules().items():
        if name == "__init__":
            continue
        for other in imports(path):
            assert LEVEL[other.split(".")[0]] <= LEVEL[name.split(".")[0]], f"{name} imports {other}, which is above it"


def test_no_module_imports_itself_in_a_circle():
    graph = {name: {o for o in imports(path) if o in modules()} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_a_recipe_imports_no_recipe():
    for name, path in modules().items():
        if name.startswith("recipes."):
            assert not {other for other in imports(path) if other.startswith("recipes.")}


def test_only_world_and_the_launcher_touch_torch_distributed():
    users = {name for name, path in modules().items() if "torch.distributed" in path.read_text()}
    assert users == {"world", "launch", "sharding"}


def test_nothing_is_unpickled():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                safe = keywords.get("weights_only") == "True" or keywords.get("allow_pickle") == "False"
                assert safe, f"{name} loads without refusing pickles"
