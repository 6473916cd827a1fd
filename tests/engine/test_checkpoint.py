import zipfile

import jax
import numpy as np
import pytest

from dip_jax.engine import checkpoint
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import restore, restore_many
from tests.engine.cases import (
    assert_same_bits,
    assert_same_result,
    restore_by_name,
    simulate,
    stop_after,
    tiny_config,
)
from tests.storage.bucket import install

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture
def messages() -> list[str]:
    """The messages of the stores of a test."""
    return []


@pytest.fixture
def folder(tmp_path):
    """The folder of the stores."""
    return tmp_path


@pytest.fixture
def open_store(folder, messages):
    """Opens a store in the same folder each time, `open_store(every_minutes)`."""

    def open_store(every_minutes):
        return CheckpointStore(
            folder, every_minutes=every_minutes, keep=2, on_message=messages.append
        )

    return open_store


def interrupt(case, config, store):
    """Ends a run after some chunks, before the case has finished."""
    (result,) = restore_many([case], config, store=store, **stop_after(3))
    assert result.status == "interrupted"


@pytest.mark.parametrize("folder", ["disk", "gs://bucket/checkpoints"])
def test_runs_that_are_interrupted_and_resumed_end_with_the_bits_of_a_single_run(
    image, open_store, messages, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    install(tmp_path / "buckets")
    config = tiny_config("run.slots=2")
    names = ["a", "b", "ä/c d"]
    expected = restore_by_name(image, names, config)
    finished = {}
    for _ in range(20):
        cases = [simulate(image, config, name) for name in names if name not in finished]
        if not cases:
            break
        store = open_store(every_minutes=100)
        for result in restore_many(cases, config, store=store, **stop_after(2)):
            if result.status != "interrupted":
                finished[result.name] = result
    assert set(finished) == set(names)
    for name in names:
        assert any(text.startswith(f"{name}: resumed from step") for text in messages)
        assert_same_result(finished[name], expected[name])


def test_a_checkpoint_of_another_image_is_not_resumed(image, open_store, messages):
    config = tiny_config()
    interrupt(simulate(image, config), config, open_store(every_minutes=100))
    other = simulate(1 - image, config)
    (result,) = restore_many([other], config, store=open_store(every_minutes=100))
    assert messages == ["a: changed since its last checkpoint; starting anew"]
    (alone,) = restore([other], config)
    assert_same_bits(result.image, alone.image)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:100])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("damage", [cut_short, flip_a_bit])
def test_damaged_checkpoints_do_not_change_the_result(
    image, open_store, messages, tmp_path, number, damage
):
    config = tiny_config()
    case = simulate(image, config)
    interrupt(case, config, open_store(every_minutes=0))
    (network,) = tmp_path.iterdir()
    steps = sorted((int(path.stem) for path in network.iterdir()), reverse=True)
    assert len(steps) == 2
    for step in steps[:number]:
        damage(network / f"{step}.zip")
    (result,) = restore_many([case], config, store=open_store(every_minutes=100))
    assert len(messages) == 2
    for i in range(number):
        assert messages[i].startswith(f"a: the checkpoint of step {steps[i]} cannot be read")
    assert ("resumed from step" in messages[1]) == (number == 1)
    (alone,) = restore([case], config)
    assert_same_result(result, alone)


def test_the_arrays_of_a_type_are_stored_as_one(image, open_store, tmp_path):
    config = tiny_config()
    interrupt(simulate(image, config), config, open_store(every_minutes=100))
    (path,) = tmp_path.glob("*/*.zip")
    with zipfile.ZipFile(path) as archive:
        arrays = {name.split("/")[0] for name in archive.namelist() if name.startswith("slot.")}
    assert arrays == {"slot.bool", "slot.float32", "slot.int32", "slot.uint32"}


def of_first_version(saved):
    leaves = enumerate(jax.tree.leaves(saved.slot))
    slot = {str(i): np.asarray(leaf) for i, leaf in leaves if np.size(leaf)}
    return {"fingerprint": np.uint32(saved.fingerprint), "slot": slot}


def of_flat_images(saved):
    return to_tree(saved._replace(slot=jax.tree.map(np.ravel, saved.slot)))


to_tree = checkpoint._to_tree


@pytest.mark.parametrize("to_other_tree", [of_first_version, of_flat_images])
def test_a_checkpoint_of_other_arrays_starts_anew_with_a_message(
    image, open_store, messages, monkeypatch, to_other_tree
):
    config = tiny_config()
    case = simulate(image, config)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_to_tree", to_other_tree)
        interrupt(case, config, open_store(every_minutes=100))
    (result,) = restore_many([case], config, store=open_store(every_minutes=100))
    (message,) = messages
    assert "cannot be read (it belongs to another network, algorithm or version)" in message
    (alone,) = restore([case], config)
    assert_same_result(result, alone)


def test_only_the_newest_checkpoints_are_kept_and_all_are_complete(image, open_store, tmp_path):
    config = tiny_config()
    store = open_store(every_minutes=0)
    list(restore_many([simulate(image, config)], config, store=store))
    (network,) = tmp_path.iterdir()
    assert len(list(network.iterdir())) == 2
    assert all(path.stem.isdecimal() and path.suffix == ".zip" for path in network.iterdir())
    store.remove("a")
    assert not network.exists()


def test_a_save_is_due_after_the_set_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dip_jax.engine.checkpoint.time.monotonic", lambda: now[0])
    store = CheckpointStore(tmp_path, every_minutes=2, keep=1)
    assert not store.is_due()
    now[0] = 119
    assert not store.is_due()
    now[0] = 120
    assert store.is_due()
    assert not store.is_due()


def test_if_one_network_cannot_be_saved_the_others_are_saved_and_the_run_continues(
    image, open_store, messages, tmp_path, monkeypatch
):
    config = tiny_config("run.slots=2")
    store = open_store(every_minutes=0)
    save = CheckpointStore._save

    def fail_for_a(self, saved):
        if saved.name == "a":
            raise OSError(116, "Stale file handle")
        save(self, saved)

    monkeypatch.setattr(CheckpointStore, "_save", fail_for_a)
    cases = [simulate(image, config, name) for name in "ab"]
    results = list(restore_many(cases, config, store=store))
    assert {result.status for result in results} == {"done"}
    assert any("a: could not be saved" in text for text in messages)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_ends_the_run(image, open_store, monkeypatch):
    config = tiny_config()

    def fail(self, saved):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "_save", fail)
    with pytest.raises(OSError, match="No space"):
        list(restore_many([simulate(image, config)], config, store=open_store(every_minutes=0)))
