import numpy as np
import pytest

from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import restore, restore_many
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case


def make(picture, name, config):
    key = simulation_key(image_key(0, name))
    return simulate_case(key, config.task, name, picture)


def settings(tiny, *more):
    return build_config(
        overrides=[*tiny, "fit.num_steps=22", "run.chunk=4", "stop.window=5", *more]
    )


def store(folder, told=None):
    tell = (lambda text: None) if told is None else told.append
    return CheckpointStore(folder, every_minutes=100, keep=2, on_message=tell)


def stop_after(chunks):
    left = [chunks]

    def asked():
        left[0] -= 1
        return left[0] <= 0

    return asked


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_ends_with_the_same_bits(picture, tiny, tmp_path):
    config = settings(tiny, "run.slots=2")
    names = ["a", "b", "ä/c d"]
    cases = [make(picture, name, config) for name in names]
    whole = dict(zip(names, restore(cases, config), strict=True))
    done, told = {}, []
    for _ in range(20):
        waiting = [case for case in cases if case.name not in done]
        if not waiting:
            break
        saved = store(tmp_path / "ck", told)
        for result in restore_many(waiting, config, store=saved, should_stop=stop_after(4)):
            if result.status != "interrupted":
                done[result.name] = result
        saved.close()
    assert set(done) == set(names)
    assert any("going on from step" in text for text in told)
    for name in names:
        np.testing.assert_array_equal(done[name].image, whole[name].image)
        assert done[name].stop_step == whole[name].stop_step
        for column in whole[name].curve:
            np.testing.assert_array_equal(done[name].curve[column], whole[name].curve[column])


def interrupted(picture, config, folder):
    saved = store(folder)
    (result,) = restore_many(
        [make(picture, "a", config)], config, store=saved, should_stop=stop_after(3)
    )
    assert result.status == "interrupted"
    saved.close()
    return result


@pytest.mark.slow
def test_a_checkpoint_of_another_picture_is_not_taken_up(picture, tiny, tmp_path):
    config = settings(tiny)
    interrupted(picture, config, tmp_path)
    told = []
    saved = store(tmp_path, told)
    (result,) = restore_many([make(1 - picture, "a", config)], config, store=saved)
    assert "changed since its checkpoint" in told[0]
    (alone,) = restore([make(1 - picture, "a", config)], config)
    np.testing.assert_array_equal(result.image, alone.image)


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_damaged_checkpoint_costs_time_but_not_the_picture(picture, tiny, tmp_path, number):
    config = settings(tiny)
    saved = CheckpointStore(tmp_path, every_minutes=0, keep=2)
    list(restore_many([make(picture, "a", config)], config, store=saved, should_stop=stop_after(4)))
    saved.close()
    (of_the_picture,) = tmp_path.iterdir()
    steps = sorted((int(path.name) for path in of_the_picture.iterdir()), reverse=True)
    for step in steps[:number]:
        for path in (of_the_picture / str(step)).rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.write_bytes(path.read_bytes()[:100])
    told = []
    (result,) = restore_many([make(picture, "a", config)], config, store=store(tmp_path, told))
    assert sum("cannot be read" in text for text in told) == number
    assert ("going on from step" in told[-1]) == (number == 1)
    (alone,) = restore([make(picture, "a", config)], config)
    np.testing.assert_array_equal(result.image, alone.image)


def test_only_the_newest_checkpoints_stay_and_nothing_half_written(picture, tiny, tmp_path):
    config = settings(tiny)
    saved = CheckpointStore(tmp_path, every_minutes=0, keep=2)
    list(restore_many([make(picture, "a", config)], config, store=saved))
    saved.close()
    (of_the_picture,) = tmp_path.iterdir()
    assert len(list(of_the_picture.iterdir())) == 2
    assert all(path.name.isdigit() for path in of_the_picture.iterdir())
    saved.remove("a")
    assert not of_the_picture.exists()


def test_a_checkpoint_is_due_after_its_minutes(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dip_jax.engine.checkpoint.time.monotonic", lambda: now[0])
    saved = CheckpointStore(tmp_path, every_minutes=2, keep=1)
    assert not saved.is_due()
    now[0] = 119
    assert not saved.is_due()
    now[0] = 120
    assert saved.is_due()


@pytest.mark.slow
def test_a_picture_that_cannot_be_saved_costs_neither_the_others_nor_the_run(
    picture, tiny, tmp_path, monkeypatch
):
    config = settings(tiny, "run.slots=2")
    told = []
    saved = CheckpointStore(tmp_path, every_minutes=0, keep=2, on_message=told.append)
    real = CheckpointStore._save

    def stale(self, picture):
        if picture.name == "a":
            raise OSError(116, "Stale file handle")
        real(self, picture)

    monkeypatch.setattr(CheckpointStore, "_save", stale)
    cases = [make(picture, name, config) for name in "ab"]
    run = list(restore_many(cases, config, store=saved))
    assert {result.status for result in run} == {"done"}
    assert any("a: could not be saved" in text for text in told)
    assert len(list(tmp_path.iterdir())) == 1

    def full(self, picture):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "_save", full)
    with pytest.raises(OSError, match="No space"):
        list(restore_many(cases, config, store=saved))
