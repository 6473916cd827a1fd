"""Damaged checkpoints: a store returns a state that was saved, or none with a message, and never raises."""

import gc
import shutil
import sys
import time

import jax
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import restore_many
from tests.conftest import smooth_image
from tests.engine.cases import simulate, stop_after, tiny_config
from tests.file_damage import damages, relative_names

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]

MAX_SECONDS, MAX_BYTES = 10.0, 1_000_000_000


class Recorder:
    """A store that keeps what it is given."""

    def __init__(self):
        self.saved = []

    def load(self, name, fingerprint, shapes):
        return None

    def is_due(self):
        return True

    def save(self, networks):
        self.saved.extend(networks)


@pytest.fixture(scope="module")
def saved(shared_programs):
    """The same network after two of its chunks."""
    config, recorder = tiny_config(), Recorder()
    case = simulate(smooth_image(), config)
    list(restore_many([case], config, store=recorder, **stop_after(3)))
    return recorder.saved[-2:]


@pytest.fixture(scope="module")
def checkpoints(saved, tmp_path_factory):
    """A folder with both checkpoints, which tests copy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    store = CheckpointStore(folder, every_minutes=0, keep=2)
    for network in saved:
        store.save([network])
    return folder


def load(folder, saved, messages):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), saved[0].slot)
    store = CheckpointStore(folder, every_minutes=0, keep=2, on_message=messages.append)
    return store.load("a", saved[0].fingerprint, shapes)


def is_one_of(loaded, saved) -> bool:
    """Whether a state has the bits of one that was saved."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loaded[:4])]
    return any(
        leaves == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(network[:4])]
        for network in saved
    )


def copy(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


@pytest.mark.parametrize("count", [40, pytest.param(3_000, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_a_saved_state_or_none_with_a_message(
    saved, checkpoints, tmp_path, count
):
    process = psutil.Process()
    outcomes, folder, before = [], tmp_path / "copy", process.memory_info().rss

    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(
        damages(relative_names(checkpoints)),
        st.booleans(),
    )
    def check(applied, is_alone):
        copy(checkpoints, folder)
        if is_alone:  # without the older checkpoint
            (network,) = folder.iterdir()
            min(network.iterdir(), key=lambda path: int(path.stem)).unlink()
        for damage in applied:
            damage.apply(folder)
        messages, start = [], time.perf_counter()
        loaded = load(folder, saved, messages)
        assert time.perf_counter() - start < MAX_SECONDS
        assert loaded is None or is_one_of(loaded, saved)
        if loaded is not None:
            assert messages[-1].startswith("a: resumed from step ")
        assert all(text.count("\n") == 0 for text in messages)
        outcomes.append(loaded is None)

    check()
    assert 0.05 < np.mean(outcomes) < 0.95
    assert process.memory_info().rss - before < MAX_BYTES


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed_or_has_no_effect(
    saved, checkpoints, tmp_path, count
):
    (path,) = (p for p in checkpoints.rglob("*") if p.stem == "6")
    content, outcomes = path.read_bytes(), []
    copied = tmp_path / path.relative_to(checkpoints)
    copied.parent.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        changed = bytearray(content)
        changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
        copied.write_bytes(bytes(changed))
        messages = []
        loaded = load(tmp_path, saved, messages)
        assert loaded is None or is_one_of(loaded, saved), number
        assert len(messages) == 1
        outcomes.append(loaded is None)
    assert np.mean(outcomes) > 0.8


def test_a_damaged_checkpoint_is_reported_by_the_message_alone(
    saved, checkpoints, tmp_path, caplog, monkeypatch
):
    printed, messages = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: printed.append(str(error.exc_value)))
    for number in range(10):
        copy(checkpoints, tmp_path / "copy")
        for path in (tmp_path / "copy").glob("*/*"):
            content = path.read_bytes()
            path.write_bytes(content[: len(content) * number // 10])
        assert load(tmp_path / "copy", saved, messages) is None
    gc.collect()  # an error that nobody asked for is printed with its task
    assert len(messages) == 20
    assert printed + [record.getMessage()[:80] for record in caplog.records] == []


@pytest.mark.parametrize("is_network", [False, True])
def test_a_folder_or_a_link_in_place_of_a_checkpoint_is_reported(
    saved, checkpoints, tmp_path, is_network
):
    copy(checkpoints, tmp_path / "copy")
    (network,) = (tmp_path / "copy").iterdir()
    if is_network:
        shutil.rmtree(network)
        network.symlink_to(network)
    else:
        (network / "11.zip").unlink()
        (network / "11.zip").mkdir()
    messages = []
    loaded = load(tmp_path / "copy", saved, messages)
    assert (loaded is None) == is_network
    assert len(messages) >= 1
