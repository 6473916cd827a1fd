"""The code of README and docs: every command parses, every Python block and code span runs."""

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.cli.flags import build_flags, parse_flags
from dip_jax.cli.request import resolve_flags, validate
from dip_jax.config import field_names, parse_field
from dip_jax.presets import COMPARISONS, PRESETS
from tests.conftest import TINY, smooth_image
from tests.storage.bucket import install

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
BLOCKS = {
    page: blocks
    for page, text in PAGES.items()
    if (blocks := re.findall(r"```python\n(.*?)```", text, re.DOTALL))
}
# A fresh process for each page, and a namespace for each block: JAX takes seconds to load.
RUN_BLOCKS = """
import glob, runpy
for path in sorted(glob.glob("block*.py")):
    print("#", path)
    runpy.run_path(path)
"""
# Code spans, outside of fenced blocks.
SPANS = {
    page: set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    for page, text in PAGES.items()
}


def run_python(*args: str, folder: Path) -> str:
    """Runs Python in a fresh process in `folder`, which must succeed; returns its output."""
    process = subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the files that the blocks name."""
    image = np.rint(smooth_image() * 255).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/first.png", "photos/second.png"):
        iio.imwrite(tmp_path / name, image)
    return tmp_path


def shorten(block: str) -> str:
    """The same block with a tiny network and few steps, if it restores an image."""
    if "restore" not in block:
        return block
    overrides = ", ".join(map(repr, (*TINY, "fit.num_steps=6")))
    count = 0
    for pattern, shorter in (
        (r'build_config\("denoise"', 'build_config("denoise_single"'),
        (r"overrides=\[(.*?)\]", rf"overrides=[\1, {overrides}]"),
        (r"settings=\{.*?\}", f"settings={SETTINGS!r}"),
        (
            r"dip_jax\.denoise\((\w+), noise_std=25\)",
            rf"dip_jax.denoise(\1, noise_std=25, settings={SETTINGS!r})",
        ),
        (
            r"nets\.skip\((?:[^()]|\([^()]*\))*\)",
            "nets.deep_decoder(depth=1, width=4, input_depth=4)",
        ),
        (r"num_steps=\d+(?=\))", "num_steps=6"),
    ):
        block, number = re.subn(pattern, shorter, block, flags=re.DOTALL)
        count += number
    assert count, "cannot shorten a block without overrides=[...]"
    return block


@pytest.mark.parametrize("page", BLOCKS)
def test_every_python_block_of_a_page_runs_in_a_fresh_process(page, folder):
    for number, block in enumerate(BLOCKS[page]):
        (folder / f"block{number}.py").write_text(shorten(block))
    (_, *outputs) = re.split(
        r"^# block\d+\.py$", run_python("-c", RUN_BLOCKS, folder=folder), flags=re.M
    )
    for block, output in zip(BLOCKS[page], outputs, strict=True):
        if "photos" in block:
            assert {line.split()[0] for line in output.split("\n") if line} == {"first", "second"}
    if any("write_image" in block for block in BLOCKS[page]):
        assert iio.imread(folder / "restored.png").shape == (40, 36, 3)


def test_the_python_blocks_of_the_readme_are_short():
    blocks = re.findall(r"```python\n(.*?)```", PAGES["README.md"], re.DOTALL)
    assert all(len(block.strip().splitlines()) <= 15 for block in blocks)


SETTINGS = {
    **{
        name: int(value) if value.isdigit() else value
        for name, value in (text.split("=") for text in TINY)
    },
    "fit.num_steps": 6,
}
FLASH = {
    "net.channels_down": (4,),
    "net.channels_up": (4,),
    "net.channels_skip": (4,),
    "net.upsample": ("bilinear",),
    "fit.num_steps": 2,
}
SAMPLED = (
    "config = build_config(overrides=['fit.method=sgld', 'task.noise_std=0.1', 'sgld.burn_in=2', "
    "'sgld.thin=2'], changes={**SMALL, 'fit.num_steps': 40});"
    "(result,) = restore([build_case(config.task, 'image', image)], config)"
)
# The names that code spans use. A span is evaluated after `from dip_jax import *`.
NAMESPACE = f"""
import functools
import flax.linen
import flax.nnx
import jax
import numpy
import numpy as np
import skimage.transform
import dip_jax
from dip_jax import *
from dip_jax.stopping import stop_at_minimum

config = build_config(overrides={[*TINY, "fit.num_steps=6"]!r})
shape = (40, 36, 3)
key = jax.random.key(0)
net = build_net(config.net, shape)
params, code = net.init(key), jax.numpy.zeros(net.code_shape)
apply = jax.jit(net.apply)
operator = dip_jax.operators.Identity()
image = numpy.full(shape, 0.5, numpy.float32)
problem = build_case(config.task, "image", image).problem._replace(noise_std=0.1)
fit = build_fit(net)
sampler = fit
step, state = jax.jit(fit.step), fit.init(key, problem, shape)
init = lambda key, *rest: fit.init(key, *rest) if rest else net.init(key)
angles = numpy.arange(4.0)
folder = "checkpoints"
cases = [case] = [build_case(config.task, "image", image)]
estimator = estimator_from_config(config)
(result,) = restore(cases, estimator)
prediction, loss, regularizer = image, losses.gaussian, regularizers.tv(0.1)
condition = signal = lambda *_: None
mask, kernel, guide, mosaic = numpy.eye(40, 36), numpy.eye(3) / 3, image, image[..., 0]
measurement = image
SMALL = {SETTINGS!r}
inpaint, super_resolve, deblur, demosaic, dejpeg, reconstruct = (
    functools.partial(f, settings=SMALL, progress=False)
    for f in (inpaint, super_resolve, deblur, demosaic, dejpeg, reconstruct)
)
flash = functools.partial(flash, settings={FLASH!r}, progress=False)
"""
# Names that mean something else for one span.
OWN_NAMES = {
    "code(key, shape, problem)": "code = codes.uniform()",
    "dip_jax.denoise(noisy, noise_std=25)": (
        "noisy = numpy.uint8(image); dip_jax.denoise = functools.partial(denoise, settings=SMALL)"
    ),
    "dip_jax.load_run(folder)": "write_run(folder, [(case, result)])",
    "dip_jax.posterior.to_arviz(result.posterior)": SAMPLED,
    "flax.nnx.bridge.to_linen(Module, ...)": "Module = flax.nnx.Linear",
    "langevin.constrain_norm(sampler)": "sampler = sgld.sgld(schedules.constant(1.0))",
    "load_run(folder)": "folder = 'read'; write_run(folder, [(case, result)])",
    "nets.from_flax(module)": "module = flax.linen.Conv(3, (3, 3))",
    "dip_jax.write_run(folder, [(case, result)])": "folder = 'written'",
    'build_config("interlaced")': "register_task(Task('interlaced'))",
    'register_task(task, preset={"fit.num_steps": 2000})': "task = Task('other')",
    "params_from_torch(config.net, state)": "state = torch_state(params)",
    "skimage.transform.radon(image, angles, circle=False)": "image = image[:, :, 0]",
}
# The tensors of PyTorch in the order of the 2018 network.
TORCH_STATE = """
def torch_state(params):
    from dip_jax.nets import _module_order
    state = {}
    for module in _module_order(config.net):
        for leaf in ("kernel", "scale", "bias"):
            if leaf in params[module]:
                value = numpy.asarray(params[module][leaf])
                state[f"{module}/{leaf}"] = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
    return state
"""


def is_python(span: str) -> bool:
    """Whether a span looks like a call, or like an attribute of dip_jax."""
    return bool(
        re.fullmatch(r"(\w+=)?[a-zA-Z_][\w.]*\(.*\)", span)
        or re.fullmatch(r"dip_jax(\.\w+)+", span)
    )


def test_every_code_span_that_is_python_evaluates_in_a_fresh_process(tmp_path):
    spans = sorted({s for found in SPANS.values() for s in found if is_python(s)})
    assert {"check_operator(operator, shape)", "dip_jax.sgld.sgld"} <= set(spans)
    script = [NAMESPACE, TORCH_STATE, "import traceback", "names = dict(globals())"]
    for span in spans:
        expression = re.sub(r"^\w+=(?=[a-zA-Z_])", "", span)
        script += [
            "own = dict(names)",
            f"exec({OWN_NAMES.get(span, '')!r}, own)",
            "try:",
            f"    eval({expression!r}, own)",
            "except Exception as error:",
            f"    print({span!r}, repr(error))",
        ]
    (tmp_path / "spans.py").write_text("\n".join(script))
    assert run_python("spans.py", folder=tmp_path) == ""


FIELD = re.compile(r"(?:--set )?((?:task|net|fit|sgld|stop|run)\.\w+)(?:=(\S+))?")
PLACEHOLDERS = ("...", "N")


@pytest.mark.parametrize("page", PAGES)
def test_every_config_field_in_a_code_span_exists_and_takes_its_value(page):
    for span in SPANS[page]:
        if match := FIELD.fullmatch(span):
            name, values = match.groups()
            assert name in field_names(), span
            for value in (values or "").split("|"):
                if value and value not in PLACEHOLDERS:
                    parse_field(name, value)


def commands(text: str, program: str) -> list[str]:
    """The arguments of each call of a program; lines that end with a backslash are joined."""
    joined = text.replace("\\\n", " ")
    return re.findall(rf"python {program} ([^`'\n]*?)(?: +#.*|['`]|$)", joined, re.MULTILINE)


@functools.cache
def flags_of(path: str) -> set[str]:
    """Names of the flags that the programs define whose path matches a glob."""
    return {
        node.args[0].value
        for file in ROOT.glob(path)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("flags.DEFINE_")
        and isinstance(node.args[0], ast.Constant)
    }


def named_flags(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--([a-z][a-z_]+)", text))


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_preset_and_comparison_in_a_page_exists(page):
    text = PAGES[page]
    main_flags = set(build_flags())
    known = main_flags if page == "README.md" else main_flags | flags_of("benchmarks/*.py")
    for span in SPANS[page]:
        if span.startswith("--"):
            assert named_flags(span) <= known, span
    for arguments in commands(text, r"main\.py"):
        assert named_flags(arguments) <= main_flags, arguments
    for folder in ("benchmarks", "examples"):
        for arguments in commands(text, rf"-m {folder}(?:\.\w+)?"):
            assert named_flags(arguments) <= flags_of(f"{folder}/*.py"), arguments
    assert set(re.findall(r"--preset=(\w+)", text)) <= set(PRESETS)
    for names in re.findall(r"--compare=([\w,]+)", text):
        assert set(names.split(",")) <= {*PRESETS, *COMPARISONS}


@pytest.mark.usefixtures("registered")
def test_every_command_in_a_page_has_settings_that_exist(tmp_path, monkeypatch):
    install(tmp_path)  # the library of a bucket is not a requirement
    monkeypatch.chdir(tmp_path)
    for block in (block for blocks in BLOCKS.values() for block in blocks):
        if name := re.match(r"# (\w+\.py)\n", block):
            (tmp_path / name[1]).write_text(block)
    found = [
        arguments
        for text in PAGES.values()
        for arguments in re.findall(r"^python main\.py (--.*?)(?:  +#.*)?$", text, re.MULTILINE)
    ]
    assert len(found) > 15
    for arguments in found:
        flags, images = parse_flags(shlex.split(arguments))
        request = resolve_flags(flags, images)
        validate(request)
        assert flags.task in (None, request.config.task.name), arguments


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_file_that_a_page_links_to_exists(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_every_figure_of_the_tasks_exists_and_has_its_command():
    text = PAGES["docs/tasks.md"]
    figures = re.findall(r"!\[\]\((images/[a-z_0-9]+\.png)\)", text)
    assert len(figures) > 8
    for figure in figures:
        assert (ROOT / "docs" / figure).exists(), figure
        assert f"docs/{figure}" in text, figure


# Flags that make each example fast.
EXAMPLES = {
    "gp_inpainting": ("--draws=300", "--channels=8"),
    "posterior_1d": ("--steps=200", "--chains=1", "--width=4"),
    "prior_kernel": ("--draws=2", "--columns=1"),
    "prior_predictive": ("--draws=2", "--columns=1", "--side=40"),
}


def test_every_example_is_tested():
    assert {path.stem for path in (ROOT / "examples").glob("[!_]*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_lists_its_flags_in_a_fresh_process(name):
    process = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1, process.stderr  # absl's status for --help
    for flag in EXAMPLES[name]:
        assert flag.partition("=")[0] in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_to_its_end(name, tmp_path):
    output = tmp_path / "out" if name == "prior_kernel" else tmp_path / "out" / "figure.png"
    run_python("-m", f"examples.{name}", *EXAMPLES[name], f"--output={output}", folder=tmp_path)
    figures = list((tmp_path / "out").glob("*.png"))
    assert len(figures) == (2 if name == "prior_kernel" else 1)
    assert all(iio.imread(figure).shape[0] > 100 for figure in figures)
