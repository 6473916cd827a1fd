import logging
import os
import pickle
import shutil
import subprocess
import sys
import types
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dip_jax
from dip_jax.base import Problem
from dip_jax.config import Config
from dip_jax.engine import program_cache
from dip_jax.engine.program_cache import build_program, cache_exports, source_checksum
from dip_jax.engine.recent_programs import forget_programs
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity
from dip_jax.operators.blur import Blur
from dip_jax.presets import build_config
from tests.conftest import TINY
from tests.engine.cases import assert_same_bits, build_slots, simulate, tiny_config


@pytest.fixture
def unchanged_source(monkeypatch):
    """Lets a test cache programs even if the files of this package are edited while it runs."""
    source = program_cache._SOURCE
    monkeypatch.setattr(program_cache, "_package_checksum", lambda: source)


@pytest.fixture
def folder(tmp_path, unchanged_source):
    """The cache folder of exported programs during the test."""
    cache_exports(tmp_path / "traced")
    yield tmp_path / "traced"
    cache_exports(None)


@pytest.fixture
def traces(monkeypatch):
    """One entry for each trace of a program."""
    calls = []
    trace = Slots._trace
    monkeypatch.setattr(
        Slots, "_trace", lambda self, *arguments: calls.append(1) or trace(self, *arguments)
    )
    return calls


def advance(case, config):
    """Returns the state of a slot after five steps, its logs, and the bytes of donated memory."""
    forget_programs()  # only the cache on disk is tested here
    slots = build_slots(case, config)
    slots.put(0, case)
    logs = slots.advance(5)
    memory = slots._program.compiled.memory_analysis()
    assert memory.alias_size_in_bytes > 0
    return slots.save(0), logs, memory.alias_size_in_bytes


def build_sum(number):
    """Builds a program that adds `number` to the first of two numbers."""
    shape = jax.ShapeDtypeStruct((), np.float32)
    return build_program(
        number, lambda: (lambda x, y: (x + number, y), number), lambda info: (shape, shape)
    )


# This worker has compiled the same program for other tests.
@pytest.mark.xdist_group("fits")
def test_a_cached_program_gives_the_same_bits_without_a_trace(image, folder, traces):
    config = tiny_config()
    case = simulate(image, config)
    cache_exports(None)
    expected = advance(case, config)
    assert len(traces) == 1
    cache_exports(folder)
    assert_same_bits(advance(case, config), expected)
    assert len(traces) == 2
    assert_same_bits(advance(case, config), expected)
    assert len(traces) == 2


class StoppedError(Exception):
    pass


@pytest.fixture
def cache_path(folder, monkeypatch):
    """Returns the cache file of the program of a case; nothing is compiled."""

    def cache_path(case, config, devices=None):
        def stop(estimator, form, *_):
            raise StoppedError(program_cache._cache_path((estimator, form)))

        with monkeypatch.context() as patched:
            patched.setattr("dip_jax.engine.slots.recall_program", stop)
            with pytest.raises(StoppedError) as caught:
                build_slots(case, config, devices=devices)
        (path,) = caught.value.args
        return path

    return cache_path


def test_programs_do_not_depend_on_the_seed_and_the_image(image, cache_path):
    config, other = tiny_config(), tiny_config("run.seed=1")
    path = cache_path(simulate(image, config), config)
    assert path.suffix == ".program"
    assert cache_path(simulate(1 - image, other, "b"), other) == path


@pytest.mark.parametrize(
    "override",
    [
        "fit.learning_rate=0.02",
        "fit.num_steps=13",
        "stop.held_out_fraction=0.05",
        "net.input_depth=6",
    ],
)
def test_programs_depend_on_the_settings(image, cache_path, override):
    config, other = tiny_config(), tiny_config(override)
    case = simulate(image, config)
    assert cache_path(case, config) != cache_path(case, other)


def test_programs_depend_on_shape_operator_and_presence_of_a_reference(image, cache_path):
    config = tiny_config()
    cases = [simulate(image, config), simulate(image[:36], config)]
    cases.append(cases[0]._replace(reference=None))
    cases.append(simulate(image, build_config("inpaint_random_single", overrides=TINY)))
    assert len({cache_path(case, config) for case in cases}) == 4


def test_programs_depend_on_the_source_and_the_libraries(image, cache_path, monkeypatch):
    config = tiny_config()
    case = simulate(image, config)
    paths = {cache_path(case, config)}
    versions = program_cache._versions()
    monkeypatch.setattr(program_cache, "_versions", lambda: (*versions, "1"))
    paths.add(cache_path(case, config))
    monkeypatch.setattr(program_cache, "_SOURCE", b"another")
    paths.add(cache_path(case, config))
    assert len(paths) == 3


def test_programs_depend_on_the_devices_and_the_number_of_slots(image, cache_path):
    config, two_slots = tiny_config(), tiny_config("run.slots=2")
    case = simulate(image, config)
    (device,) = jax.devices()
    paths = {
        cache_path(case, config),
        cache_path(case, two_slots),
        cache_path(case, config, [device, device]),
    }
    assert len(paths) == 3


def test_programs_depend_on_the_settings_of_jax(image, cache_path):
    config = tiny_config()
    case = simulate(image, config)
    path = cache_path(case, config)
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert cache_path(case, config) != path
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert cache_path(case, config) == path


def test_a_program_with_an_operator_from_a_file_is_not_cached(image, cache_path, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def half(image):\n    return image / 2\n")
    config = build_config("custom", overrides=[*TINY, f"task.operator={file}:half"])
    assert cache_path(simulate(image, config), config) is None


class Gain:
    """An operator of the user."""


@pytest.mark.parametrize(
    "dependency",
    [
        Config(),
        Identity(),
        Problem(Identity(), np.ones((2, 2, 1)), 0.1),
        Problem(Blur(jnp.ones((1, 3)) / 3), jnp.ones((2, 2, 1)), 0.1),
        jax.tree.structure(Problem(Identity(), 0.0, 0.1)),
    ],
)
def test_programs_that_depend_on_classes_of_this_package_are_cached(folder, dependency):
    path = program_cache._cache_path((dependency, 1))
    assert path is not None
    assert path.parent == folder
    assert program_cache._cache_path((dependency, 1)) == path
    assert program_cache._cache_path((dependency, 2)) != path


@pytest.mark.parametrize(
    "dependency",
    [Gain(), Problem(Gain(), np.ones((2, 2, 1)), 0.1), Gain, lambda image: image],
)
def test_programs_that_depend_on_anything_else_are_not_cached(folder, dependency):
    assert program_cache._cache_path((dependency, 1)) is None


def test_a_module_whose_name_begins_with_that_of_this_package_is_not_part_of_it(
    folder, monkeypatch
):
    module = types.ModuleType("dip_jax_mine")
    module.Gain = type("Gain", (), {"__module__": "dip_jax_mine"})
    monkeypatch.setitem(sys.modules, "dip_jax_mine", module)
    assert pickle.loads(pickle.dumps(module.Gain)) is module.Gain
    assert program_cache._cache_path(module.Gain()) is None


def test_the_checksum_covers_the_python_files_of_all_subpackages(tmp_path):
    (tmp_path / "inner" / "innermost").mkdir(parents=True)
    files = [tmp_path / name for name in ("a.py", "inner/b.py", "inner/innermost/c.py")]
    for file in files:
        file.write_text("x = 1\n")
    checksums = {source_checksum(tmp_path)}
    for file in files:
        file.write_text("x = 2\n")
        checksums.add(source_checksum(tmp_path))
    files[0].rename(tmp_path / "inner" / "a.py")
    checksums.add(source_checksum(tmp_path))
    assert len(checksums) == 5
    (tmp_path / "inner" / "notes.txt").write_text("no source")
    assert source_checksum(tmp_path) in checksums


@pytest.mark.parametrize("name", ["__init__.py", "fit.py", "engine/slots.py", "layers/conv.py"])
def test_the_checksum_of_this_package_covers_all_of_its_rooms(tmp_path, name):
    root = Path(dip_jax.__file__).parent
    copy = tmp_path / "dip_jax"
    for file in root.rglob("*.py"):
        target = copy / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    assert source_checksum(copy) == program_cache._package_checksum()
    with (copy / name).open("a") as file:
        file.write("# changed\n")
    assert source_checksum(copy) != program_cache._package_checksum()


def test_a_program_is_not_cached_if_the_source_has_changed_since_the_import(folder, monkeypatch):
    monkeypatch.setattr(program_cache, "_SOURCE", b"the imported source")
    program, _ = build_sum(0)
    assert program(np.float32(3), np.float32(1))[0] == 3
    assert not folder.exists()


def test_an_unreadable_file_causes_a_warning_and_another_trace(folder, caplog):
    build_sum(7)
    (file,) = folder.iterdir()
    content = file.read_bytes()
    # An incomplete file, files with other content, and a program that JAX cannot read.
    others = (1, (b"nonsense", None, 7), program_cache._File(b"nonsense", None, 7))
    for data in (content[:-10], *(zlib.compress(pickle.dumps(other)) for other in others)):
        file.write_bytes(data)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            program, info = build_sum(7)
        assert "cannot be read" in caplog.text
        assert "traced again" in caplog.text
        assert program(np.float32(3), np.float32(1)) == (10, 1)
        assert info == 7
        caplog.clear()
        build_sum(7)
        assert not caplog.text


def test_arguments_of_another_structure_are_refused():
    program, _ = build_sum(0)
    with pytest.raises(TypeError, match="Expected arguments of the structure"):
        program((np.float32(3),), np.float32(1))


def test_the_least_recently_used_file_is_removed_first(folder, monkeypatch):
    def build(number):
        program, _ = build_sum(number)
        assert program(np.float32(3), np.float32(1)) == (3 + number, 1)

    build(0)
    (first,) = folder.iterdir()
    build(1)
    assert len(list(folder.iterdir())) == 2
    os.utime(first, (1, 1))
    monkeypatch.setattr(program_cache, "_MAX_EXPORT_BYTES", 2.5 * first.stat().st_size)
    build(2)
    assert len(list(folder.iterdir())) == 2
    assert not first.exists()


def test_a_program_that_is_read_counts_as_recently_used(folder, monkeypatch):
    build_sum(0)
    (first,) = folder.iterdir()
    build_sum(1)
    (second,) = set(folder.iterdir()) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    build_sum(0)
    monkeypatch.setattr(program_cache, "_MAX_EXPORT_BYTES", 2.5 * first.stat().st_size)
    build_sum(2)
    assert first.exists()
    assert not second.exists()


def test_without_a_writable_folder_the_program_runs_and_a_warning_is_logged(
    tmp_path, unchanged_source, caplog
):
    (tmp_path / "file").write_text("in the way")
    cache_exports(tmp_path / "file" / "folder")
    try:
        with caplog.at_level(logging.WARNING):
            program, info = build_sum(7)
    finally:
        cache_exports(None)
    assert program(np.float32(3), np.float32(1)) == (10, 1)
    assert info == 7
    assert "cannot be cached" in caplog.text


def test_an_error_of_the_function_is_raised_and_not_logged(folder, caplog):
    def function(x, y):
        raise InputError("too small")

    shape = jax.ShapeDtypeStruct((), np.float32)
    with pytest.raises(InputError, match="too small"):
        build_program("x", lambda: (function, None), lambda info: (shape, shape))
    assert not caplog.text


SCRIPT = """
import jax, jax.numpy as jnp
from dip_jax.engine.program_cache import keep_compiled
keep_compiled()
print(jax.config.jax_compilation_cache_dir)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
"""


def compile_in_a_new_process(home: Path, **environment: str) -> str:
    """Compiles a program in a new process and returns its cache folder."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[2],
        env={"PATH": "", "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folder is not in XDG_CACHE_HOME")
def test_executables_are_cached_in_a_folder_of_the_user(tmp_path):
    folder = Path(compile_in_a_new_process(tmp_path))
    assert folder == tmp_path / "cache" / "dip_jax" / "compiled"
    assert any(folder.iterdir())


def test_a_cache_folder_set_for_jax_is_used(tmp_path):
    folder = tmp_path / "mine"
    found = compile_in_a_new_process(tmp_path, JAX_COMPILATION_CACHE_DIR=str(folder))
    assert found == str(folder)
    assert any(folder.iterdir())
    assert not (tmp_path / "cache").exists()


def test_without_a_writable_folder_nothing_is_cached(tmp_path):
    (tmp_path / "file").write_text("in the way")
    before = dict(jax.config.values), program_cache._folder
    program_cache.keep_compiled(tmp_path / "file" / "folder")
    assert (dict(jax.config.values), program_cache._folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
