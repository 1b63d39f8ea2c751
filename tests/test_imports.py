"""Static checks of the sources: who may import whom, and who may write to a model."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("surgery", "pruning", "recipes")
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# The arrows: recipes -> pruning -> surgery -> torch.
MAY_IMPORT = {
    "surgery": {"surgery", "torch", "numpy", "safetensors", "regex"}
    | {"numba", "llvmlite", "triton"},  # kernels; one an extra that stands on the second, one torch's
    "pruning": {"pruning", "surgery", "torch", "numpy", "safetensors", "torch_pruning"}
    | {"matplotlib", "nncf"},  # extras
    "recipes": {*PACKAGES, "torch", "numpy", "safetensors", "timm", "torchvision", "torch_pruning"}
    | {"PIL"}  # decodes the pictures: torchvision requires it, and its own decoder is being removed
    | {"tqdm", "huggingface_hub"}
    | {"sklearn", "matplotlib", "wandb", "tensorboard", "optuna", "psycopg"},  # extras
}

# Modules of surgery that import inside functions, and what: each runtime that networks are deployed to is imported by
# one file alone. A file may have the name of its runtime, since imports here are absolute.
RUNTIMES = {
    "surgery.deploy.runtimes.onnxruntime": {"onnx", "onnxruntime", "onnxscript"},
    "surgery.deploy.runtimes.openvino": {"openvino", "nncf"},
    "surgery.deploy.runtimes.ncnn": {"ncnn", "pnnx"},
    "surgery.deploy.runtimes.litert": {"litert_torch", "ai_edge_litert", "ai_edge_quantizer"},
    "surgery.deploy.runtimes.coreml": {"coremltools"},
    "surgery.deploy.runtimes.executorch": {"executorch", "torchao"},
    "surgery.deploy.runtimes.tvm": {"tvm"},
}

THE_WRITER = "surgery.edit.write"
# Functions elsewhere that write only to what they have just made: a copy of a function, an object coming out of a
# pickle, a new activation, a copy. Nobody's model yet.
WRITE_TO_NEW_OBJECTS = {
    "surgery.code.subclass": {"_with_inner_code", "_copied", "_restored"},
    "surgery.activations.registry": {"build"},
    "surgery.edit.prove": {"copy_with_values", "_counted"},
    "surgery.look.references": {"reseated"},
    "surgery.isolation.meta_copy": {"_copy_whole", "shallow"},
    "surgery.edit.replacement": {"_kept"},
    "surgery.look.example": {"mapped"},
    "surgery.old_names": {"exec_module"},
    "surgery.isolation.surroundings": {"put"},  # gives names outside of models back what a look took from them
}
WRITING_METHODS = {"add_module", "register_module", "set_submodule", "register_parameter", "register_buffer"}
WRITTEN_TABLES = {"_modules", "_parameters", "_buffers", "__dict__"}
WRITING_TABLE_METHODS = {"__setitem__", "__delitem__", "clear", "pop", "popitem", "setdefault", "update", "move_to_end"}


def test_all_sources_are_read() -> None:
    assert {"surgery", "surgery.errors", "surgery.look.site", "pruning", "recipes"} <= set(SOURCES)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_follow_the_arrows(module: str) -> None:
    allowed = MAY_IMPORT[module.split(".")[0]] | RUNTIMES.get(module, set()) | sys.stdlib_module_names
    wrong = [f"line {line}: {name}" for line, name in imports(tree(module)) if name.split(".")[0] not in allowed]
    assert not wrong, f"{module} imports {wrong}"


def test_every_library_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [
        line for name in extras.keys() - {"test", "docs", "dev", "foreign"} for line in extras[name]
    ]
    declared = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in lines}
    package_of = {"sklearn": "scikit_learn", "PIL": "pillow", "tvm": "apache_tvm"}
    imported = {package_of.get(name, name) for names in (*MAY_IMPORT.values(), *RUNTIMES.values()) for name in names}
    # torch brings triton wherever it can be used
    assert imported - {*PACKAGES} - {"triton"} == declared


def test_no_import_cycles() -> None:
    graph = {
        module: {name for _, name in imports(at_import(tree(module))) if name in SOURCES and name != module}
        for module in SOURCES
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(SOURCES)


@pytest.mark.slow
def test_the_compiler_of_torch_is_not_imported() -> None:
    code = "import sys, surgery; print(*(name for name in ('torch._dynamo', 'numba', 'timm') if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.strip(), "what is only needed later takes as long as torch itself"


FOLDERS = sorted({path.parent for path in SOURCES.values()})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 14


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_package_hides_a_module_of_its_own(folder: Path) -> None:
    package = import_module(".".join(folder.relative_to(ROOT).parts))
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    hidden = {name for name in modules if callable(getattr(package, name, None))}
    assert not hidden, f"{package.__name__} has functions that hide its modules: {sorted(hidden)}"


@pytest.mark.parametrize("module", [name for name in SOURCES if name.split(".")[0] == "surgery"])
def test_surgery_imports_at_the_top(module: str) -> None:
    late = {name.partition(".")[0] for node in functions(tree(module)) for _, name in imports(node)}
    assert late == RUNTIMES.get(module, set()), f"{module} imports inside a function: {sorted(late)}"
    early = {name.partition(".")[0] for _, name in imports(at_import(tree(module)))}
    assert not early & late, f"{module} imports its runtime at the top"


def test_every_runtime_has_its_own_file() -> None:
    files = {name for name in SOURCES if name.startswith("surgery.deploy.runtimes.")}
    assert files == set(RUNTIMES)
    names = [name for runtime in RUNTIMES.values() for name in runtime]
    assert len(names) == len(set(names)), "two files import the same runtime"


@pytest.mark.parametrize("module", [name for name in SOURCES if name != THE_WRITER])
def test_only_one_file_writes_to_a_model(module: str) -> None:
    assert writes(at_import(tree(module))) == []
    found = {node.name: writes(node) for node in functions(tree(module)) if writes(node)}
    assert set(found) == WRITE_TO_NEW_OBJECTS.get(module, set()), f"only {THE_WRITER} writes to a model: {found}"


@pytest.mark.parametrize(
    "line",
    [
        "setattr(module, name, new)",
        "delattr(owner, 'relu')",
        "owner.__class__ = kind",
        "owner.__class__, x = pair",
        "object.__setattr__(owner, '__class__', kind)",
        "owner._modules['relu'] = new",
        "del owner._modules['relu']",
        "owner._modules.pop('relu')",
        "owner.__dict__['forward'] = new",
        "vars(owner)['forward'] = new",
        "vars(owner).update(forward=new)",
        "owner.add_module('relu', new)",
        "self.owner.register_module('relu', new)",
        "owner.register_buffer('share', new)",
        "nn.Module.__setattr__(owner, 'relu', new)",
        "model.set_submodule('layer1.0.relu', new)",
    ],
)
def test_a_write_is_seen(line: str) -> None:
    assert writes(ast.parse(line)) == [f"line 1: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "setattr(self, name, new)",
        "object.__setattr__(self, 'name', new)",
        "self._modules['relu'] = new",
        "self.add_module('relu', new)",
        "super().__setattr__(name, new)",
        "nn.Module.__setattr__(self, name, new)",
        "names = dict(owner._modules)",
        "kind = owner.__class__",
        "known['relu'] = owner._modules['relu']",
    ],
)
def test_reading_and_ones_own_state_are_no_writes(line: str) -> None:
    assert writes(ast.parse(line)) == []


def tree(module: str) -> ast.Module:
    return ast.parse(SOURCES[module].read_text(encoding="utf-8"), filename=str(SOURCES[module]))


def imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of every import below `node`, including `import_module("...")`."""
    for inner in ast.walk(node):
        match inner:
            case ast.Import(names=names):
                yield from ((inner.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                for alias in names:
                    full = f"{module}.{alias.name}"
                    yield inner.lineno, full if full in SOURCES else module
            case ast.ImportFrom():
                raise AssertionError(f"line {inner.lineno}: imports here are absolute")
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield inner.lineno, name


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef))


def at_import(node: ast.Module) -> ast.Module:
    """The statements that run on import: no function bodies, nothing in `if TYPE_CHECKING`."""

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    return Shallow().visit(node)


def writes(node: ast.AST) -> list[str]:
    """Every statement below `node` that sets, replaces or removes an attribute of something other than `self`."""
    return [f"line {inner.lineno}: {ast.unparse(inner)}" for inner in ast.walk(node) if _is_write(inner)]


def _is_write(node: ast.AST) -> bool:
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            return any(_is_written(part) for target in targets for part in _parts(target))
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            return _is_written(target)
        case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[target, *_]):
            return not _is_self(target)
        case ast.Call(func=ast.Attribute(value=kind, attr="__setattr__" | "__delattr__"), args=[target, *_]):
            return not _is_self(kind) and not _is_self(target)
        case ast.Call(func=ast.Attribute(value=target, attr=method)) if method in WRITING_METHODS:
            return not _is_self(target)
        case ast.Call(func=ast.Attribute(value=target, attr=method)) if method in WRITING_TABLE_METHODS:
            return _is_table(target)
    return False


def _parts(target: ast.expr) -> list[ast.expr]:
    return list(target.elts) if isinstance(target, ast.Tuple | ast.List) else [target]


def _is_written(target: ast.expr) -> bool:
    match target:
        case ast.Attribute(value=owner, attr="__class__" | "__dict__" | "_modules" | "_parameters" | "_buffers"):
            return not _is_self(owner)
        case ast.Subscript(value=table):
            return _is_table(table)
    return False


def _is_table(node: ast.expr) -> bool:
    match node:
        case ast.Attribute(value=owner, attr=name) if name in WRITTEN_TABLES:
            return not _is_self(owner)
        case ast.Call(func=ast.Name(id="vars"), args=[owner]):
            return not _is_self(owner)
    return False


def _is_self(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="self") | ast.Call(func=ast.Name(id="super")):
            return True
    return False
