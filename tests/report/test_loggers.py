"""The logs of a run, read back by TensorBoard and from the files of wandb."""

import errno
import json
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.config import Config, RunConfig
from dip_jax.errors import InputError
from dip_jax.report.loggers import build_logger, log_folder, require_logger
from dip_jax.storage.paths import to_path
from tests.report.conftest import STEPS
from tests.storage.bucket import install

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard imports modules that are deprecated
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer


def config_of(log: str) -> Config:
    return Config(run=RunConfig(log=log))


def observation_of(case, step, image, name="photo", **values):
    return SimpleNamespace(
        name=name, case=case, step=step, num_steps=STEPS, image=image, values=values
    )


def read_events(output):
    """The content of all event files, as TensorBoard reads them."""
    events = EventMultiplexer(size_guidance={"scalars": 0, "images": 0})
    events.AddRunsFromDirectory(str(log_folder(output)))
    return events.Reload()


def scalars(events, run, tag):
    return [(event.step, event.value) for event in events.Scalars(run, tag)]


def test_tensorboard_shows_the_values_and_images_of_each_network(case, result, tmp_path):
    logger = build_logger(config_of("tensorboard"), tmp_path, on_message=pytest.fail)
    estimate = np.full_like(result.image, 0.5)
    for step in (10, 20):
        logger.on_step(
            observation_of(case, step, estimate, loss=1 / step, signal_wmv=np.nan, psnr=float(step))
        )
    logger.on_step(observation_of(case, 10, estimate, name="photo, network 2", loss=2.0))
    logger.on_result(case, result)
    events = read_events(tmp_path)
    assert set(events.Runs()) == {"photo", "photo, network 2"}
    assert scalars(events, "photo", "loss") == [(10, pytest.approx(0.1)), (20, pytest.approx(0.05))]
    assert scalars(events, "photo", "psnr") == [(10, 10), (20, 20)]
    assert "signal_wmv" not in events.Runs()["photo"]["scalars"]
    assert scalars(events, "photo, network 2", "loss") == [(10, 2)]
    assert scalars(events, "photo", "stop_step") == [(STEPS, 12)]
    psnr = -10 * np.log10(np.mean((result.image - case.reference) ** 2))
    assert scalars(events, "photo", "restored_psnr") == [(STEPS, pytest.approx(psnr, abs=1e-4))]
    assert [image.step for image in events.Images("photo", "estimate")] == [10, 20]
    (restored,) = events.Images("photo", "restored")
    assert (restored.height, restored.width) == result.image.shape[:2]


def test_an_image_is_shown_with_its_colors_and_thinned_out_if_it_is_large(case, result, tmp_path):
    logger = build_logger(config_of("tensorboard"), tmp_path, on_message=pytest.fail)
    rows = np.linspace(-0.2, 1.2, 1200, dtype=np.float32)
    large = np.stack([np.tile(rows, (40, 1))] * 5, axis=-1)
    for name, image in (("rgb", result.image), ("gray", result.image[..., :1]), ("bands", large)):
        logger.on_step(observation_of(case, 10, image, name=name))
    logger.close()
    events = read_events(tmp_path)

    def shown(run):
        return iio.imread(events.Images(run, "estimate")[0].encoded_image_string)

    rgb = np.rint(255 * np.clip(result.image, 0, 1))
    np.testing.assert_array_equal(shown("rgb"), rgb)
    np.testing.assert_array_equal(shown("gray"), np.repeat(rgb[..., :1], 3, axis=-1))
    assert shown("bands").shape == (14, 400, 3)
    np.testing.assert_array_equal(shown("bands")[0, :, 0], np.rint(255 * rows[::3].clip(0, 1)))


def test_steps_that_a_resumed_network_repeats_are_shown_once(case, result, tmp_path):
    for steps, loss in (((10, 20, 30), 1.0), ((20, 30), 2.0)):
        logger = build_logger(config_of("tensorboard"), tmp_path, on_message=pytest.fail)
        for step in steps:
            logger.on_step(observation_of(case, step, result.image, loss=loss))
        logger.close()
    assert scalars(read_events(tmp_path), "photo", "loss") == [(10, 1), (20, 2), (30, 2)]


def test_an_error_ends_the_logging_with_one_message(case, result, tmp_path, monkeypatch):
    messages = []
    logger = build_logger(config_of("tensorboard"), tmp_path, on_message=messages.append)
    logger.on_step(observation_of(case, 10, result.image, loss=1.0))
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(self, data):
        raise full

    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.write", fail)
    for _ in range(3):
        logger.on_step(observation_of(case, 20, result.image, loss=1.0))
    logger.on_result(case, result)
    logger.close()
    assert messages == [f"logging ended, the run continues ({full})"]


def test_wandb_gets_the_values_and_images_of_each_network(case, result, tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_CACHE_DIR": str(tmp_path / "c")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    logger = build_logger(config_of("wandb"), tmp_path / "out", on_message=pytest.fail)
    logger.on_step(observation_of(case, 10, result.image, loss=0.5, psnr=np.nan))
    logger.on_step(observation_of(case, 10, result.image, name="photo, network 2", loss=2.0))
    logger.on_result(case, result)
    logger.close()
    sys.modules["wandb"].teardown()  # waits for the process that writes the files
    runs = {
        run["name"]: run for run in map(read_wandb, log_folder(tmp_path / "out").rglob("*.wandb"))
    }
    assert set(runs) == {"photo", "photo, network 2"}
    run = runs["photo"]
    assert (run["project"], run["group"]) == ("dip_jax", "out")
    first, last = run["history"]
    assert (first["loss"], first["_step"], "psnr" in first) == (0.5, 10, False)
    assert (first["estimate.height"], first["estimate.width"]) == result.image.shape[:2]
    assert (last["stop_step"], last["_step"]) == (12, STEPS)
    assert last["restored_psnr"] > 20
    assert len(list(log_folder(tmp_path / "out").rglob("restored*.png"))) == 1


def read_wandb(path: Path) -> dict[str, Any]:
    """The content of the file of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    run: dict[str, Any] = {"history": []}
    for data in leveldb_records(path.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("run"):
            run |= {"name": record.run.display_name, "project": record.run.project}
            run |= {"group": record.run.run_group}
        if record.HasField("history"):
            items = {".".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            run["history"].append({key: json.loads(value) for key, value in items.items()})
    return run


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB: parts with a header of checksum, length and kind, in blocks of 32 KB."""
    position, record = 7, b""  # after the header of wandb
    while position < len(data):
        left = 2**15 - position % 2**15
        if left < 7:  # no room for a header
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


@pytest.mark.parametrize(("log", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    log, package, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"expects the package {package}.*`pip install {package}`"
    ):
        require_logger(config_of(log), tmp_path)


def test_wandb_without_a_login_is_refused_before_it_asks(tmp_path, monkeypatch):
    online = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    monkeypatch.setattr("wandb.setup", lambda settings: online)
    monkeypatch.setattr("wandb.login", lambda prompt, verify: False)
    with pytest.raises(InputError, match="run `wandb login`, or set WANDB_MODE=offline"):
        require_logger(config_of("wandb"), tmp_path)


@pytest.mark.parametrize("log", ["tensorboard", "wandb"])
def test_a_remote_output_folder_is_refused(log, tmp_path, monkeypatch):
    install(tmp_path)
    with pytest.raises(InputError, match=r"expects a local output folder, got gs://bucket/out"):
        require_logger(config_of(log), to_path("gs://bucket/out"))
    require_logger(config_of("none"), to_path("gs://bucket/out"))
