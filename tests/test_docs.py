"""The code of README and docs: every block runs, is parsed, or states why not; every link leads somewhere."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import imageio.v3 as iio
import pytest

import dip_jax
from dip_jax.cli.flags import build_flags, parse_flags
from dip_jax.cli.request import resolve_flags, validate, validate_task
from dip_jax.config import SECTIONS, field_names, parse_field
from dip_jax.presets import COMPARISONS, PRESETS
from tests import doc_blocks
from tests.conftest import TINY
from tests.doc_blocks import BLOCKS, PAGES, ROOT, SPANS, USER_PAGES, commands, user_commands
from tests.storage.bucket import install

PYTHON_BLOCKS = doc_blocks.python_blocks()
LANGUAGES = {"sh", "python", "yaml", "dockerfile", "text", "bibtex"}
# A fresh process for each page, and a namespace for each block: JAX takes seconds to load.
RUN_BLOCKS = """
import glob, runpy
for path in sorted(glob.glob("block*.py")):
    print("#", path)
    runpy.run_path(path)
"""


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
    """A folder with the files that the documents name."""
    doc_blocks.write_files(tmp_path)
    return tmp_path


def shorten(block: str) -> str:
    """The same block with a tiny network and few steps, if it restores an image."""
    if "restore" not in block:
        return block
    steps = ["fit.num_steps=6"]
    if "fit.method=sgld" in block:
        steps = ["fit.num_steps=40", "sgld.burn_in=2", "sgld.thin=2"]
    overrides = ", ".join(map(repr, (*TINY, *steps)))
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


@pytest.mark.parametrize("pages", [["README.md"], [*PYTHON_BLOCKS.keys() - {"README.md"}]])
def test_every_python_block_runs_in_a_fresh_process(pages, folder):
    blocks = [block for page in sorted(pages) for block in PYTHON_BLOCKS[page]]
    for number, block in enumerate(blocks):
        (folder / f"block{number:02}.py").write_text(shorten(block))
    (_, *outputs) = re.split(
        r"^# block\d+\.py$", run_python("-c", RUN_BLOCKS, folder=folder), flags=re.M
    )
    for block, output in zip(blocks, outputs, strict=True):
        if "photos" in block:
            lines = [line.split()[0] for line in output.split("\n") if line]
            assert set(lines) == {"first", "second"}
    assert iio.imread(folder / "restored.png").shape == (40, 36, 3)


def test_the_python_blocks_of_the_readme_are_short():
    blocks = PYTHON_BLOCKS["README.md"]
    assert all(len(block.strip().splitlines()) <= 15 for block in blocks)


def test_every_block_has_a_language():
    for block in BLOCKS:
        assert block.language.startswith("{") or block.language in LANGUAGES, block


def test_every_shell_command_is_checked_or_its_block_states_why_not():
    for block in BLOCKS:
        if block.language not in ("sh", "yaml", "dockerfile") or block.reason:
            continue
        assert block.language == "sh", block
        lines = re.sub(r"\\\n\s*", "", block.code).splitlines()
        checked = r"dip-jax( |$)|python -m (benchmarks|examples)[. ]|#|$"
        assert all(re.match(checked, line) for line in lines), block
    assert all(len(block.reason) > 5 for block in BLOCKS if block.reason)
    markers = sum(text.count("<!-- not run:") for text in PAGES.values())
    assert markers == sum(bool(block.reason) for block in BLOCKS) + PAGES["CONTRIBUTING.md"].count(
        "`<!-- not run:"
    )


def test_pages_for_users_have_no_command_that_a_wheel_does_not_contain():
    for page, text in USER_PAGES.items():
        # The README promises to run the demo in a clone, and the page on installing repeats it.
        demo = text.count("pip install -r requirements.txt && python main.py")
        assert text.count("python main.py") == demo, page
        assert "python -m benchmarks" not in text, page
        assert "python -m examples" not in text, page


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


# The others name functions that are gone, or of the tests.
PAGES_OF_CODE = [page for page in PAGES if page not in ("CHANGELOG.md", "CONTRIBUTING.md")]


def is_python(span: str) -> bool:
    """Whether a span looks like a call, or like an attribute of dip_jax."""
    return bool(
        re.fullmatch(r"(\w+=)?[a-zA-Z_][\w.]*\(.*\)", span)
        or re.fullmatch(r"dip_jax(\.\w+)+", span)
    )


def test_every_code_span_that_is_python_evaluates_in_a_fresh_process(tmp_path):
    spans = sorted({s for page in PAGES_OF_CODE for s in SPANS[page] if is_python(s)})
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


FIELD = re.compile(r"(?:--set[= ])?((?:task|net|fit|sgld|stop|run)\.\w+)(?:=(\S+))?")
PLACEHOLDERS = ("...", "N")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_config_field_in_a_code_span_exists_and_takes_its_value(page):
    for span in SPANS[page]:
        if match := FIELD.fullmatch(span):
            name, values = match.groups()
            assert name in field_names(), span
            for value in (values or "").split("|"):
                if value and value not in PLACEHOLDERS:
                    parse_field(name, value)


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
    own_flags = set(build_flags())
    known = own_flags if page in USER_PAGES else own_flags | flags_of("benchmarks/*.py")
    if page != "CHANGELOG.md":  # it also names flags that are gone
        for span in SPANS[page]:
            if span.startswith("--"):
                assert named_flags(span) <= known, span
    for program in ("dip-jax", r"python main\.py"):
        for arguments in commands(text, program):
            assert named_flags(arguments) <= own_flags, arguments
    for folder in ("benchmarks", "examples"):
        for arguments in commands(text, rf"python -m {folder}(?:\.\w+)?"):
            assert named_flags(arguments) <= flags_of(f"{folder}/*.py"), arguments
    if page != "CHANGELOG.md":
        assert set(re.findall(r"--preset=(\w+)", text)) <= {*PRESETS, "NAME"}
        for names in re.findall(r"--compare=([\w,]+)", text):
            assert set(names.split(",")) <= {*PRESETS, *COMPARISONS, "NAME"}


LISTINGS = ("--list_presets", "--list_settings", "--help", "--version")


@pytest.mark.usefixtures("registered")
def test_every_command_in_a_page_has_settings_that_exist(folder, monkeypatch):
    install(folder)  # the library of a bucket is not a requirement
    monkeypatch.chdir(folder)
    found = user_commands(run=False)
    assert sum(map(len, found.values())) > 70
    for arguments in (arguments for lines in found.values() for arguments in lines):
        # A shell replaces its variables, and a sentence its dots, by values.
        words = [re.sub(r"\$\w+", "0", word) for word in arguments if word != "..."]
        if "--flag=value" in words or any("..." in word for word in words):
            continue
        flags, images = parse_flags(words)
        if any(word.partition("=")[0] in LISTINGS for word in words):
            continue
        request = resolve_flags(flags, images)
        validate(request)
        validate_task(request)
        assert flags.task in (None, request.config.task.name), arguments


# Settings that make any command fast, whatever its preset.
QUICK = (
    "--set=net.channels_down=4,4",
    "--set=net.channels_up=4,4",
    "--set=net.channels_skip=2,2",
    "--set=net.upsample=bilinear",
    "--set=net.width=4",
    "--set=net.depth=1",
    "--set=fit.num_replicates=2",
    "--set=stop.keep_every=2",
    "--set=sgld.burn_in=2",
    "--set=sgld.thin=1",
    "--num_steps=8",
)
# A command spends its time on compiling.
FAST_XLA = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"


@pytest.mark.slow
@pytest.mark.parametrize("page", user_commands(run=True))
def test_every_command_of_a_page_runs_in_its_order(page, folder):
    for arguments in user_commands(run=True)[page]:
        is_listing = any(word.partition("=")[0] in LISTINGS for word in arguments)
        found = subprocess.run(
            [sys.executable, "-m", "dip_jax", *arguments, *(() if is_listing else QUICK)],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONWARNINGS": "",
                "XLA_FLAGS": FAST_XLA,
            },
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, (arguments, found.stdout[-1000:], found.stderr[-2000:])


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"\s", "-", re.sub(r"[^\w\- ]", "", text))


@functools.cache
def anchors(page: str) -> set[str]:
    """The anchors of the headings of a page."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    path = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", path.read_text()):
        if "://" in target:
            continue
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        name = str(found.relative_to(ROOT))
        if anchor and found.suffix == ".md" and "generated: flags" not in found.read_text():
            assert anchor[1:] in anchors(name), (target, anchor)


def test_every_page_is_in_the_contents_of_the_site():
    listed = set()
    for page, text in PAGES.items():
        for entries in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            names = [line for line in entries.split("\n") if line and not line.startswith(":")]
            listed |= {os.path.normpath(os.path.join(os.path.dirname(page), n)) for n in names}
    pages = {page[:-3] for page in PAGES if page.startswith("docs/")}
    assert listed == pages - {"docs/index", "docs/package"}


def test_every_figure_of_the_tasks_has_its_command():
    commands_of_figures = (
        PAGES["docs/development/results.md"] + PAGES["docs/development/quality.md"]
    )
    figures = {
        figure
        for page, text in PAGES.items()
        if page.startswith("docs/tasks/")
        for figure in re.findall(r"\(\.\./(images/[a-z_0-9]+\.png)\)", text)
    }
    assert len(figures) > 10
    for figure in figures - {
        "images/denoising.png"
    }:  # parts of images that `quality_sheet` put together
        assert re.search(rf"--(sheet|output)=docs/{figure}", commands_of_figures), figure


def generated_words(kind: str) -> list[str]:
    """The words of all markers of a kind; `docs/generated.py` replaces them."""
    text = "\n".join(text for page, text in PAGES.items() if page.startswith("docs/reference/"))
    return [
        word
        for words in re.findall(rf"<!-- generated: {kind}(.*?) -->", text)
        for word in words.split()
    ]


def test_the_reference_documents_every_public_name_and_every_section_once():
    assert sorted(generated_words("api") + generated_words("module")) == sorted(dip_jax.__all__)
    assert generated_words("settings") == list(SECTIONS)


def test_the_extra_of_the_documents_has_the_requirements_of_the_site():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements-docs.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert project["optional-dependencies"]["docs"] == required


# Flags that make each example fast.
EXAMPLES = {
    "activations": ("--figure=maximization", "--classes=340", "--side=64", "--num_steps=2"),
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
