"""The order of the rooms: who may import whom, read from the sources; and what `import flatcore` costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flatcore"
CORE, BINDINGS = ROOT / "src/cpp/core", ROOT / "src/cpp/bindings"

# From left to right; a room imports only rooms to its right, neighbours in one entry not each other. `__init__` stands
# for the public names, which gather the rooms to its right.
ORDER = [
    {"cli", "__main__"},
    {"studies"},
    {"sweep"},
    {"report"},
    {"torch"},
    {"checkpoints"},
    {"io"},
    {"__init__"},
    {"linear", "wfm"},
    {"weights"},
    {"spectral"},
    {"results", "_threads"},
    {"_linalg"},
    {"_atomic", "_checks", "_memory"},
    {"_core"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# The one named exception: records import the reports inside a method.
EXCEPTIONS = {("results", "report")}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_module(name):
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def imports(path):
    """(module, whether at module level) for every import in the file, relative ones made absolute."""
    package = ("flatcore", *path.relative_to(PACKAGE).parts[:-1])
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        top_level = id(node) not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, top_level
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name == "flatcore":  # from flatcore import spectral: the names may be modules
                for alias in node.names:
                    yield f"flatcore.{alias.name}", top_level
            else:
                yield name, top_level


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_rooms_to_their_right(path):
    room = room_of(path)
    assert room in LEVEL, f"{room} is in no room of the design; add it to the order"
    for name, top_level in imports(path):
        parts = name.split(".")
        if parts[0] != "flatcore":
            continue
        other = parts[1] if len(parts) > 1 and (parts[1] in LEVEL or is_module(parts[1])) else "__init__"
        if other == room or room == "__init__" or ((room, other) in EXCEPTIONS and not top_level):
            continue
        assert other in LEVEL, f"{path.name} imports {name}, which is in no room"
        assert LEVEL[other] > LEVEL[room], f"{room} imports {name}, a room to its left"


def test_the_public_names_load_their_rooms_lazily_or_from_the_right():
    """`__init__` imports at module level only rooms to its right; torch and wfm come when first used."""
    for name, top_level in imports(PACKAGE / "__init__.py"):
        parts = name.split(".")
        if parts[0] == "flatcore" and top_level:
            assert LEVEL[parts[1]] > LEVEL["__init__"], name


def test_results_and_checks_import_no_sibling():
    allowed = {"results": {"results", "_atomic", "_checks", "report"}, "_threads": {"_core", "_checks"}}
    allowed |= {"_checks": set(), "_memory": set(), "_atomic": set()}
    for path in (path for path in modules() if room_of(path) in allowed):
        for name, top_level in imports(path):
            if name.startswith("flatcore"):
                assert name.split(".")[1] in allowed[room_of(path)], f"{path.name} imports {name}"
                assert name != "flatcore.report" or not top_level


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_torch_room_imports_torch_at_module_level(path):
    if room_of(path) == "torch":
        return
    for name, top_level in imports(path):
        assert not (name.split(".")[0] == "torch" and top_level), f"{path.name} imports torch at module level"


def test_checks_see_the_imports():
    """The reader itself: a file with every form of import."""
    names = dict(imports(PACKAGE / "results/record.py"))
    assert names["numpy"] is True
    assert names["flatcore.report"] is False
    assert dict(imports(PACKAGE / "linear/sharpness.py"))["flatcore.spectral"] is True
    assert dict(imports(PACKAGE / "_threads.py"))["flatcore._core"] is True


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(encoding="utf-8"), re.MULTILINE)


def sources(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix in (".cpp", ".hpp", ".h", ".cc", ".cuh"))


def test_the_core_knows_no_python():
    files = sources(CORE)
    assert files
    for path in files:
        for header in includes(path):
            assert not header.startswith(("pybind11", "Python", "numpy", "bindings")), f"{path.name} includes {header}"


def test_pybind11_is_included_by_the_bindings_alone():
    assert any(h.startswith("pybind11") for path in sources(BINDINGS) for h in includes(path))
    for path in sources(ROOT / "src"):
        if BINDINGS not in path.parents:
            assert not any(h.startswith("pybind11") for h in includes(path)), path.name


# -- the import ----------------------------------------------------------------------------------------------


def run(code):
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_import_loads_nothing_heavy():
    code = "import flatcore, sys; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    loaded = set(run(code).split())
    assert "flatcore" in loaded
    heavy = {"torch", "typer", "matplotlib", "rich", "jinja2", "sklearn", "pyarrow", "safetensors", "dask", "pandas"}
    assert not loaded & heavy


def test_import_is_fast():
    """At most 50 ms beyond scipy.sparse.linalg is the aim; 150 ms, once in 25 tries, allows for loaded machines."""
    code = (
        "import time, scipy.sparse.linalg\n"
        "start = time.perf_counter()\n"
        "import flatcore\n"
        "print(time.perf_counter() - start)"
    )
    assert any(float(run(code)) <= 0.15 for _ in range(25))


def test_public_names():
    import flatcore as fc

    assert sorted(fc.__all__) == fc.__all__
    for name in fc.__all__:
        assert getattr(fc, name).__doc__, f"{name} has no docstring"
    needed = {"LinearChain", "QuadraticLoss", "CrossEntropyLoss", "MaskedQuadraticLoss", "Hessian", "sharpness"}
    needed |= {"eigsh", "flattest_sharpness", "balance", "coupling", "gains", "analyze"}
    assert needed <= set(fc.__all__)
