"""The rules of the layout, read from the source: the order of the rooms, and the libraries of each."""

import ast
import functools
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import dip_jax
from dip_jax.config import TASKS

ROOT = Path(__file__).parents[1]
# From bottom to top. A room imports only from earlier lines and from itself, so imports go one way.
LEVELS = (
    ("errors", "_version", "fields"),
    (
        "storage",
        "sample_schedule",
        "config",
        "presets",
        "clipping",
        "base",
        "metrics",
        "fast_random",
        "user_file",
    ),
    ("images", "layers", "classifiers", "problem", "keys"),
    (
        "operators",
        "architectures",
        "losses",
        "regularizers",
        "codes",
        "optimizers",
        "preconditioners",
        "langevin",
        "scale_invariance",
        "posterior",
    ),
    ("nets", "fit", "schedules", "underdamped", "warm_up", "blackjax_kernel"),
    ("sgld", "stopping"),
    ("ensemble", "tasks"),
    ("engine",),
    ("notebook", "report"),
    ("batch",),
    ("cli",),
    ("__main__",),
    ("__init__",),
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted((ROOT / "dip_jax").rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def room_of(module: str) -> str:
    return module.split(".")[1]


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def imports(path: Path, *, typing_only: bool = False) -> set[str]:
    """The modules that a file imports; those under `if TYPE_CHECKING` only if asked."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden and not typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def test_every_room_has_its_level():
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_below_it(module):
    own = LEVEL[room_of(module)]
    for imported in imports(MODULES[module]):
        if imported.startswith("dip_jax.") and room_of(imported) != room_of(module):
            room = room_of(imported)
            same_level = LEVEL[room] == own
            assert LEVEL[room] < own or (same_level and _is_earlier(room, room_of(module))), (
                imported
            )


def _is_earlier(room: str, other: str) -> bool:
    """Whether a room stands before another room of its level."""
    rooms = LEVELS[LEVEL[room]]
    return rooms.index(room) < rooms.index(other)


def test_modules_import_each_other_without_a_circle():
    graph = {m: {i for i in imports(path) if i in MODULES} for m, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("flax", {"architectures", "nets"}),
        ("absl", {"cli"}),
        ("orbax", {"engine"}),
        ("rich", {"cli", "notebook"}),
        ("etils", {"storage"}),
        ("fsspec", {"storage"}),
        ("imageio", {"images"}),
        ("imagecodecs", {"images"}),
        ("tifffile", {"images"}),
        ("astropy", {"images"}),
        ("pillow_heif", {"images"}),
        ("jpeglib", {"images"}),
        ("jinja2", {"report"}),
        ("matplotlib", {"report", "cli"}),
        ("blackjax", {"posterior", "blackjax_kernel"}),
        ("arviz", {"posterior"}),
        ("xarray", {"posterior"}),
        ("tensorboardX", {"report"}),
        ("wandb", {"report"}),
    ],
)
def test_a_library_stays_in_its_room(library, allowed):
    users = {
        room_of(module)
        for module, path in MODULES.items()
        if any(i.split(".")[0] == library for i in imports(path))
    }
    assert users <= allowed


@pytest.mark.parametrize(
    "module",
    ["config", "fields", "presets", "errors", "images.read", "images.write", "images.side_inputs"],
)
def test_modules_that_must_load_fast_import_no_jax(module):
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in MODULES:
            return
        seen.add(name)
        for imported in imports(MODULES[name]):
            assert imported.split(".")[0] != "jax", name
            visit(imported)

    visit(f"dip_jax.{module}")


@pytest.mark.parametrize("room", ["layers", "architectures"])
def test_layers_and_architectures_do_not_import_problems(room):
    for module, path in MODULES.items():
        if room_of(module) == room:
            assert "dip_jax.problem" not in imports(path), module


@pytest.mark.parametrize("module", ["fit", "sgld"])
def test_fit_and_sgld_import_neither_networks_nor_tasks_nor_rules(module):
    rooms = {room_of(i) for i in imports(MODULES[f"dip_jax.{module}"]) if i.startswith("dip_jax.")}
    assert not rooms & {"nets", "tasks", "stopping", "engine"}


def names_of_tasks(node: ast.AST) -> list[str]:
    """The names of tasks that a comparison, a pattern or a table of the source contains."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        items = [item for side in sides for item in getattr(side, "elts", [side])]
    elif isinstance(node, ast.MatchValue):
        items = [node.value]
    elif isinstance(node, ast.Dict):
        items = [key for key in node.keys if key is not None]
    else:
        return []
    return [i.value for i in items if isinstance(i, ast.Constant) and i.value in TASKS]


def test_only_the_entry_of_a_task_knows_what_is_special_about_it():
    entries = {f"dip_jax.tasks.{name}" for name in TASKS}
    assert entries <= set(MODULES)
    presets = "dip_jax.presets"  # the default preset of a task has its name
    for module, path in MODULES.items():
        if module not in {*entries, presets}:
            for node in ast.walk(ast.parse(path.read_text())):
                assert not names_of_tasks(node), f"{module}, line {node.lineno}"


def test_a_comparison_with_the_name_of_a_task_is_found():
    for text in (
        "task.name == 'ct'",
        "name in ('x', 'flash')",
        "'inpaint' != name",
        "{'deblur': 2}.get(name)",
        "match name:\n  case 'ct' | 'x': pass",
    ):
        assert any(names_of_tasks(node) for node in ast.walk(ast.parse(text))), text


def test_every_package_is_installed():
    found = {name for _, name, is_package in pkgutil.walk_packages(dip_jax.__path__) if is_package}
    folders = {p.parent.name for p in FILES if p.name == "__init__.py"} - {"dip_jax"}
    assert found == folders


def test_every_public_name_has_a_docstring_and_arguments_that_are_optional_are_named():
    for name in dip_jax.__all__:
        member = getattr(dip_jax, name)
        if not callable(member):
            continue
        assert inspect.getdoc(member), name
        if inspect.isfunction(member) and member.__module__ != "dip_jax.presets":
            for parameter in inspect.signature(member).parameters.values():
                optional = parameter.default is not inspect.Parameter.empty
                assert not optional or parameter.kind is inspect.Parameter.KEYWORD_ONLY, name


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__init__")])
def test_every_module_can_be_imported_on_its_own_name(module):
    assert importlib.import_module(module).__doc__
