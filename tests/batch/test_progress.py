"""The numbers that a folder's progress line shows."""

import math

import pytest

from dip_jax.base import Status
from dip_jax.batch.progress import ProgressMeter
from dip_jax.batch.record import RunRecord
from dip_jax.engine.scheduler import Progress
from dip_jax.report.summarize import failure_summary


def summary(config, name, status, num_steps=None):
    return {**failure_summary(name, config, "", status=status), "num_steps": num_steps}


def networks(*steps, names=("a", "b"), num_steps=100, rate=10.0):
    return Progress(names, steps, num_steps, rate, loss=0.1, psnr=None)


def test_the_time_left_takes_the_mean_number_of_steps_of_finished_images(config, tmp_path):
    record = RunRecord(tmp_path, config, saves_summaries=False)
    meter = ProgressMeter(record, num_images=6, num_networks=2)
    first = meter.measure(networks(30, 50, names=("a", "a, network 2")))
    # Ten more networks of 100 steps; 20 network steps per second.
    assert first.seconds_left == pytest.approx((70 + 50 + 10 * 100) / 20)
    assert (first.num_done, first.num_failed, first.per_hour) == (0, 0, 0.0)
    record.keep(summary(config, "kept", Status.DONE, 1000))
    meter.measure(networks(10, 20, names=("b", "b, network 2")))
    record.add(summary(config, "a", Status.STOPPED, 40))
    record.add(summary(config, "b", Status.DIVERGED, 60))
    record.add(summary(config, "c", Status.FAILED))
    later = meter.measure(networks(30, 70, names=("d", "d, network 2")))
    # A kept image counts as done, but not for the mean, which is 50; two more networks wait.
    assert later.seconds_left == pytest.approx((20 + 0 + 2 * 50) / 20)
    assert (later.num_images, later.num_done, later.num_failed) == (6, 2, 2)
    assert 0 < later.per_hour < math.inf


def test_finished_networks_of_an_image_in_progress_are_not_waited_for(config, tmp_path):
    meter = ProgressMeter(
        RunRecord(tmp_path, config, saves_summaries=False), num_images=1, num_networks=3
    )
    meter.measure(networks(100, names=("a",)))
    second = meter.measure(networks(40, names=("a, network 2",)))
    assert second.seconds_left == pytest.approx((60 + 100) / 10)
    last = meter.measure(networks(90, names=("a, network 3",)))
    assert last.seconds_left == pytest.approx(10 / 10)


def test_there_is_no_estimate_of_time_before_the_speed_is_known(config, tmp_path):
    meter = ProgressMeter(
        RunRecord(tmp_path, config, saves_summaries=False), num_images=1, num_networks=1
    )
    assert math.isnan(meter.measure(networks(1, names=("a",), rate=math.nan)).seconds_left)
