"""The rules of the package's layout, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "errors",
    "_version",
    "fields",
    "config",
    "presets",
    "base",
    "images",
    "writing",
    "manifest",
    "programs",
    "compilation",
    "aids",
    "metrics",
    "borders",
    "winograd",
    "vendor",
    "scales",
    "convolution",
    "normalisation",
    "operators",
    "blur",
    "resampling",
    "colour",
    "jpeg_file",
    "jpeg",
    "sensing",
    "radon",
    "custom",
    "losses",
    "tasks",
    "simulation",
    "blocks",
    "skip",
    "unet",
    "resnet",
    "texture",
    "decoders",
    "nets",
    "cost",
    "noise",
    "codes",
    "gaussian_process",
    "noise_level",
    "minimum",
    "variance_rules",
    "data_rules",
    "stopping",
    "fit",
    "samples",
    "sgld",
    "padding",
    "memory",
    "chunk",
    "slots",
    "reading",
    "pace",
    "runner",
    "ensemble",
    "checkpoint",
    "diagnostics",
    "drawings",
    "report",
    "uncertainty",
    "posterior",
    "pages",
    "hosts",
    "presence",
    "jobs",
    "plan",
    "interrupt",
    "folder_run",
    "folder",
    "compare",
    "demo",
    "console",
    "__init__",
]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = {path.stem: path for path in (ROOT / "dip_jax").glob("*.py")}


def test_every_module_has_its_place_in_the_order():
    assert set(FILES) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_modules_before_it(name):
    ours = {i.split(".")[1] for i in imports(FILES[name]) if i.startswith("dip_jax.")}
    later = [other for other in ours & set(FILES) if ORDER.index(other) >= ORDER.index(name)]
    assert not later


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("flax", {"blocks", "skip", "unet", "resnet", "texture", "decoders", "nets"}),
        ("absl", set()),
        ("orbax", {"checkpoint"}),
        ("rich", {"console"}),
    ],
)
def test_a_library_stays_in_its_file(library, allowed):
    users = {
        name
        for name, path in FILES.items()
        if any(i.split(".")[0] == library for i in imports(path))
    }
    assert users <= allowed


@pytest.mark.parametrize("name", ["config", "presets", "errors", "images"])
def test_what_answers_at_once_imports_no_jax(name):
    assert not any(i.split(".")[0] == "jax" for i in imports(FILES[name]))


def test_fit_knows_neither_networks_nor_tasks():
    ours = {i for i in imports(FILES["fit"]) if i.startswith("dip_jax.")}
    assert not ours & {"dip_jax.nets", "dip_jax.tasks", "dip_jax.stopping"}


def test_every_public_name_has_a_docstring_and_arguments_that_are_optional_are_named():
    import inspect

    import dip_jax

    for name in dip_jax.__all__:
        member = getattr(dip_jax, name)
        if not callable(member):
            continue
        assert inspect.getdoc(member), name
        if inspect.isfunction(member) and member.__module__ != "dip_jax.presets":
            for parameter in inspect.signature(member).parameters.values():
                optional = parameter.default is not inspect.Parameter.empty
                assert not optional or parameter.kind is inspect.Parameter.KEYWORD_ONLY, name
