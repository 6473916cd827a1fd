"""The distributions, the container, and the citation: each has what its user needs."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import dip_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILD = (
    "import setuptools.build_meta as b, sys; print(getattr(b, f'build_{sys.argv[1]}')(sys.argv[2]))"
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the repository: a build writes into it."""
    copy = tmp_path_factory.mktemp("sources") / "dip_jax"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "out", "build", "*.egg-info", "_build")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    shutil.copy(ROOT / ".dockerignore", copy)
    return copy


def build(sources: Path, kind: str, folder: Path) -> Path:
    """Builds a distribution and returns its file."""
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(folder)],
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return folder / process.stdout.splitlines()[-1]


def files_of(folder: Path) -> set[str]:
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {name for name in found if ".egg-info/" not in name and not name.startswith("build/")}


def test_a_wheel_has_all_files_of_the_package_the_command_and_a_page(sources, tmp_path):
    with zipfile.ZipFile(build(sources, "wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        texts = {Path(n).name: wheel.read(n).decode() for n in names if ".dist-info/" in n}
    package = {
        f"dip_jax/{name}" for name in files_of(ROOT / "dip_jax") if "__pycache__" not in name
    }
    assert {n for n in names if ".dist-info/" not in n} == package
    assert "dip-jax = dip_jax.cli.command:main" in texts["entry_points.txt"]
    metadata = email.message_from_string(texts["METADATA"])
    assert metadata["Version"] == dip_jax.__version__
    required = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    capped = {re.match(r"[\w-]+", r)[0] for r in required if "<" in r}
    assert capped == {"jax", "flax", "orbax-checkpoint"}
    assert "pip install dip_jax" in metadata.get_payload()


def test_a_source_distribution_has_all_files_so_that_its_tests_run(sources, tmp_path):
    with tarfile.open(build(sources, "sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_of(sources) - names == set()


def test_the_page_of_the_package_index_has_no_relative_link():
    page = (ROOT / PROJECT["readme"]["file"]).read_text()
    assert all(link.startswith("http") for link in re.findall(r"\]\((.*?)\)", page))


def test_the_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == dip_jax.__version__


def test_each_extra_that_a_message_names_exists():
    text = " ".join(path.read_text() for path in (ROOT / "dip_jax").rglob("*.py"))
    text += (ROOT / PROJECT["readme"]["file"]).read_text() + (ROOT / "Dockerfile").read_text()
    extras = set(re.findall(r"dip_jax\[(\w+)\]|EXTRA=(\w+)", text))
    assert {name for pair in extras for name in pair if name} <= set(
        PROJECT["optional-dependencies"]
    )


def test_the_container_is_built_from_files_that_it_gets():
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    names = " ".join(copied).split()
    assert sorted(names) == sorted(sent)
    assert all((ROOT / name).exists() for name in names)


def test_the_container_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    process = subprocess.run(
        [linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout
