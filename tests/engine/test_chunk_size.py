import math

import pytest

from dip_jax.config import RunConfig
from dip_jax.engine.chunk_size import ChunkSizer, max_steps


class Clock:
    """Replaces the module `time`; the test sets the time."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("dip_jax.engine.chunk_size.time", clock)
    return clock


def run_chunk(sizer, clock, seconds_per_step):
    """Runs a chunk of the chosen number of steps."""
    sizer.start()
    clock.now += sizer.count * seconds_per_step
    sizer.update(sizer.count)


@pytest.mark.parametrize(("is_cpu", "seconds"), [(True, 3), (False, 0.5)])
def test_a_chunk_takes_three_seconds_on_cpu_and_half_a_second_elsewhere(
    clock, monkeypatch, is_cpu, seconds
):
    monkeypatch.setattr("dip_jax.engine.chunk_size.is_cpu", lambda: is_cpu)
    sizer = ChunkSizer(1000)
    assert sizer.count == 1
    for seconds_per_step in (0.01, 0.1):
        run_chunk(sizer, clock, seconds_per_step)
        assert sizer.count == round(seconds / seconds_per_step)


@pytest.mark.parametrize(("platform", "number"), [("cpu", 100), ("gpu", 1000), ("tpu", 1000)])
def test_a_chunk_may_have_more_steps_where_they_are_short(monkeypatch, platform, number):
    monkeypatch.setattr("jax.default_backend", lambda: platform)
    assert max_steps(RunConfig()) == number
    assert max_steps(RunConfig(chunk=7)) == 7


def test_a_count_is_a_multiple_of_the_block(clock):
    sizer = ChunkSizer(1000, block=8)
    run_chunk(sizer, clock, 0.1)
    assert sizer.count == 32


def test_a_count_is_at_most_the_maximum(clock):
    sizer = ChunkSizer(100, block=8)
    run_chunk(sizer, clock, 0.001)
    assert sizer.count == 100


@pytest.mark.parametrize("block", [1, 8])
def test_a_count_is_at_least_one_block(clock, block):
    sizer = ChunkSizer(100, block)
    run_chunk(sizer, clock, 60)
    assert sizer.count == block


def test_a_chunk_without_steps_changes_nothing(clock):
    sizer = ChunkSizer(100)
    for _ in range(2):
        run_chunk(sizer, clock, 0.1)
    sizer.start()
    clock.now += 60
    sizer.update(0)
    assert sizer.count == 30
    assert sizer.steps_per_second == pytest.approx(10)


def test_the_speed_is_a_moving_average_without_the_first_chunk(clock):
    sizer = ChunkSizer(100)
    run_chunk(sizer, clock, 2)
    assert math.isnan(sizer.steps_per_second)
    run_chunk(sizer, clock, 0.1)
    assert sizer.steps_per_second == pytest.approx(10)
    run_chunk(sizer, clock, 0.05)
    assert sizer.steps_per_second == pytest.approx(0.7 * 10 + 0.3 * 20)
