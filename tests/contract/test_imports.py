"""Who may import whom: the layers of the core, and the packages that stand on it. Read from the source by `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "linearsr": ROOT / "linearsr",
    "linearsr_cli": ROOT / "linearsr_cli",
    "linearsr_train": ROOT / "train" / "linearsr_train",
}
LAYERS = (
    {"errors"},
    {"strict", "config_checks", "extras", "state_dicts"},
    {
        "config",
        "flow",
        "schedules",
        "tiling",
        "sizing",
        "resize",
        "noise",
        "device",
        "color",
        "atomic",
        "metrics",
        "model_folder",
    },
    {"model", "autoencoders", "tags", "samplers", "alpha", "image_*"},
    {
        "checkpoint",
        "presets",
        "hub",
        "hub_*",
        "convert",
        "denoiser",
        "catalogue",
        "model_files",
        "integrity",
        "local_copy",
        "publish",
    },
    {"families", "tag_tokens", "runtime"},
    {"engine"},
    {"enlarge", "tagging"},
    {"passes"},
    {"pipeline"},
    {"evaluation", "comparison"},
)
"""Modules of `linearsr` from the bottom up; a module imports from its own layer and those below. `x_*` is a prefix."""
ANY_LAYER = {"linearsr"}
"""The package itself, which holds the version and loads its public names on demand."""
STANDARD_LIBRARY_ONLY = (
    "linearsr.errors",
    "linearsr.strict",
    "linearsr.config_checks",
    "linearsr.config",
    "linearsr.sizing",
    "linearsr.tags.vocabulary",
    "linearsr.tags.prompts",
    "linearsr.tags.tagger_kinds",
)
"""Read by the command line before anything heavy is loaded."""
CLI_AT_IMPORT = {"linearsr.errors", "linearsr.sizing", "typer", "linearsr_cli"}
"""All that `linearsr_cli` may import outside functions, beside the standard library."""
OWN = tuple(PACKAGES)


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement."""

    module: str
    line: int
    at_import: bool
    """Runs when the file is imported: outside functions and `if TYPE_CHECKING`."""


def module_name(path: Path, package: str) -> str:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join((package, *(part for part in parts if part != "__init__")))


def modules(package: str) -> dict[str, Path]:
    return {module_name(path, package): path for path in sorted(PACKAGES[package].rglob("*.py"))}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def find_imports(source: str) -> list[Import]:
    """Every import of a file, with where it stands; relative imports come out as `.`, which nothing allows."""
    return list(walk(ast.parse(source), at_import=True))


def walk(node: ast.AST, *, at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, at_import)
    elif isinstance(node, ast.ImportFrom):
        base = "." if node.level or node.module is None else node.module
        names = [f"{base}.{a.name}" for a in node.names] if base in OWN else [base]
        for name in names:
            yield Import(name, node.lineno, at_import)
    elif isinstance(node, ast.If) and is_type_checking(node):
        for child in node.body:
            yield from walk(child, at_import=False)
        for child in node.orelse:
            yield from walk(child, at_import=at_import)
    else:
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_import=at_import and not inside)


def layer_of(module: str) -> int:
    """Layer of a module of `linearsr`.

    Raises:
        LookupError: the module has no place in `LAYERS`; give it one.
    """
    top = module.split(".")[1]
    for index, names in enumerate(LAYERS):
        if top in names or any(name.endswith("*") and top.startswith(name[:-1]) for name in names):
            return index
    raise LookupError(f"{module} is in no layer of tests/contract/test_imports.py; add it where it belongs")


def known(name: str, package: str) -> str:
    """The module behind `from package import name`: itself, or the package when `name` is a plain attribute."""
    return name if name in modules(package) else name.rpartition(".")[0]


def layer_violations(module: str, imports: list[Import]) -> list[str]:
    """Imports of a core module from a layer above its own."""
    found = []
    for item in imports:
        if item.module.split(".")[0] != "linearsr" or module in ANY_LAYER:
            continue
        target = known(item.module, "linearsr")
        if target not in ANY_LAYER and layer_of(target) > layer_of(module):
            found.append(f"{module}:{item.line} imports {target} from a layer above")
    return found


@pytest.mark.parametrize("module", sorted(set(modules("linearsr")) - ANY_LAYER))
def test_core_imports_from_its_own_layer_or_below(module: str) -> None:
    source = modules("linearsr")[module].read_text(encoding="utf-8")

    assert layer_violations(module, find_imports(source)) == []


def test_core_has_no_import_cycle() -> None:
    core = modules("linearsr")
    graph = {
        name: {
            known(i.module, "linearsr")
            for i in find_imports(path.read_text("utf-8"))
            if i.module.startswith("linearsr.")
        }
        for name, path in core.items()
        if name not in ANY_LAYER
    }
    left = dict(graph)
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]

    assert left == {}, "these modules import one another in a circle"


def test_samplers_and_tiling_know_no_model() -> None:
    for name in ("linearsr.samplers", "linearsr.tiling"):
        source = modules("linearsr")[name].read_text(encoding="utf-8")

        assert {i.module for i in find_imports(source) if i.module.startswith("linearsr")} <= {"linearsr.errors"}


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("linearsr", {"linearsr_cli", "linearsr_train", "benchmarks", "tests"}),
        ("linearsr_train", {"linearsr_cli", "benchmarks", "tests"}),
        ("linearsr_cli", {"benchmarks", "tests"}),
    ],
)
def test_package_never_imports_what_stands_above_it(package: str, others: set[str]) -> None:
    found = [
        f"{name}:{item.line} imports {item.module}"
        for name, path in modules(package).items()
        for item in find_imports(path.read_text(encoding="utf-8"))
        if item.module.split(".")[0] in others | {"", "train"}
    ]

    assert found == []


def test_cli_imports_nothing_heavy_outside_functions() -> None:
    found = [
        f"{name}:{item.line} imports {item.module}"
        for name, path in modules("linearsr_cli").items()
        for item in find_imports(path.read_text(encoding="utf-8"))
        if item.at_import
        and item.module.split(".")[0] not in sys.stdlib_module_names
        and not any(item.module == allowed or item.module.startswith(f"{allowed}.") for allowed in CLI_AT_IMPORT)
    ]

    assert found == []


def test_importing_the_cli_and_its_settings_loads_no_torch() -> None:
    names = [*modules("linearsr_cli"), *STANDARD_LIBRARY_ONLY, "linearsr"]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    code += "print([m for m in ('torch', 'numpy', 'cv2', 'PIL', 'rich.progress') if m in sys.modules])"

    run = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("module", STANDARD_LIBRARY_ONLY)
def test_standard_library_modules_stay_so(module: str) -> None:
    source = modules("linearsr")[module].read_text(encoding="utf-8")

    tops = {item.module.split(".")[0] for item in find_imports(source)}

    assert tops - set(sys.stdlib_module_names) <= {"linearsr"}


def test_find_imports_tells_functions_types_and_top_level_apart() -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport torch\nfrom linearsr import pipeline\n"
        "if TYPE_CHECKING:\n    import numpy\ndef f():\n    from linearsr.hub import find_model\n"
    )

    found = {item.module: item.at_import for item in find_imports(source)}

    assert found == {
        "typing": True,
        "torch": True,
        "linearsr.pipeline": True,
        "numpy": False,
        "linearsr.hub": False,
    }


def test_layer_violation_is_found() -> None:
    imports = find_imports("def late():\n    from linearsr.pipeline import Upscaler\n")

    assert layer_violations("linearsr.model.layers", imports) == [
        "linearsr.model.layers:2 imports linearsr.pipeline from a layer above"
    ]
    assert layer_violations("linearsr.pipeline", imports) == []


def test_a_module_without_a_layer_is_refused() -> None:
    with pytest.raises(LookupError, match=r"linearsr\.brand_new"):
        layer_of("linearsr.brand_new")
