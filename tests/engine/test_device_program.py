"""Counts of the operations of the compiled program. Counts are exact, unlike timings.

Each bound is a tenth above the larger of the counts with jax 0.10 and 0.12. A change that exceeds a bound states the
reason in docs/development/performance-log.md; a change that falls far below a bound lowers it.
"""

import json
import re
from collections import Counter
from unittest import mock

import jax
import numpy as np
import pytest

from dip_jax.base import Case
from dip_jax.config import Config
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.slots import Slots, _Layout
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case
from tests.engine.cases import build_slots

# Several tests check the same program. One worker runs all these tests, so that it is compiled once.
pytestmark = [pytest.mark.xdist_group("program"), pytest.mark.usefixtures("shared_programs")]

SMALL = [
    "net.channels_down=16,16,16",
    "net.channels_up=16,16,16",
    "net.channels_skip=4,4,4",
    "fit.num_steps=1000",
    "run.chunk=4",
    "run.slots=2",
]
TWO_SCALES = [
    *SMALL,
    "net.channels_down=16,16",
    "net.channels_up=16,16",
    "net.channels_skip=4,4",
]
SIDE = 64


def simulate_constant(config: Config, value: float) -> Case:
    """A case whose reference has one value."""
    reference = np.full((SIDE, SIDE, 3), value, np.float32)
    case = simulate_case(jax.random.key(0), config.task, str(value), reference)
    return pad_case(case, config.net.sides_per_octave)


def build_small(*overrides: str) -> Slots:
    """Slots of the small network, of which the first has a case."""
    config = build_config("denoise_single", overrides=[*SMALL, *overrides])
    case = simulate_constant(config, 0.5)
    slots = build_slots(case, config)
    slots.put(0, case)
    return slots


def remat_of(estimator: Estimator) -> str:
    """The setting `net.remat` of the program."""
    return json.loads(estimator.program_key)["net"]["remat"]


@pytest.fixture(scope="module")
def slots(shared_programs) -> Slots:
    return build_small()


def lower_for_gpu() -> str:
    """Returns the text of the program for a GPU before its compilation, which needs no GPU."""
    config = build_config(
        "denoise_single", overrides=[*TWO_SCALES, "net.precision=bfloat16", "run.max_memory=100"]
    )
    texts = []

    def lower(estimator, form, trace, argument_shapes):
        function, info = trace()
        traced = jax.jit(function).trace(*argument_shapes(info))
        texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
        raise InterruptedError("nothing is compiled")

    with (
        mock.patch("jax.default_backend", return_value="gpu"),
        mock.patch("dip_jax.engine.slots.recall_program", lower),
        pytest.raises(InterruptedError),
    ):
        build_slots(simulate_constant(config, 0.5), config)
    return texts[0]


@pytest.fixture(scope="module")
def counts(slots) -> Counter:
    """The number of instructions of each kind in the program, including those in fusions and loops."""
    return Counter(re.findall(r" = \S+ ([a-z][a-z0-9-]*)\(", slots.text()))


MAX_FLOPS, MAX_BYTES = 142e6, 139e6
MAX_COUNTS = {
    "copy": 1820,
    "transpose": 2,
    "fusion": 1960,
    "dot": 50,
    # Within loops, these are slow on CPU.
    "convolution": 0,
    "scatter": 0,
}


@pytest.mark.slow
def test_the_arithmetic_and_the_memory_traffic_of_a_step_are_bounded(slots):
    cost = slots.cost()
    assert 0.7 * MAX_FLOPS < cost["flops"] <= MAX_FLOPS
    assert 0.7 * MAX_BYTES < cost["bytes accessed"] <= MAX_BYTES


@pytest.mark.parametrize("kind", MAX_COUNTS)
def test_the_number_of_instructions_is_bounded(counts, kind):
    assert counts[kind] <= MAX_COUNTS[kind]


def test_a_chunk_transfers_nothing_between_host_and_device(slots, counts):
    for kind in ("infeed", "outfeed", "send", "recv"):
        assert counts[kind] == 0
    assert "callback" not in slots.text()


def test_the_whole_state_is_donated(slots):
    num_leaves = len(jax.tree.leaves(slots.slot_shapes))
    aliases = re.search(r"input_output_alias=\{(.*)\}, entry", slots.text())
    assert aliases is not None
    assert aliases[1].count("alias)") == num_leaves


def test_the_state_is_little_larger_than_params_moments_and_a_snapshot(slots):
    params = sum(leaf.size for leaf in jax.tree.leaves(slots.slot_shapes.state.params))
    state = sum(leaf.size for leaf in jax.tree.leaves(slots.slot_shapes))
    images, code = 2 * SIDE * SIDE * 3, SIDE * SIDE * 32  # the average and the estimate
    # Params and two moments of Adam, and a snapshot of them for the guard.
    assert 6 * params < state < 1.05 * (6 * params + images + code)


def test_another_image_and_another_number_of_steps_compile_nothing(slots):
    slots.advance(2)
    other = simulate_constant(build_config("denoise_single", overrides=SMALL), 0.2)
    events = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: events.append(event) if "backend_compile" in event else None
    )
    slots.put(1, other)
    slots.advance(3)
    assert events == []


@pytest.mark.slow
def test_for_a_gpu_convolutions_are_aligned_and_a_chunk_rarely_waits_for_the_host():
    text = lower_for_gpu()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    # Two images, and the merge of 4 + 16 channels at the finest scale: forward, input and weight.
    assert len(lines) == 3
    for line in lines:
        arrays = re.findall(r"tensor<([\dx]+)x(\w+)>", line.rpartition(" : ")[2])
        assert {dtype for _, dtype in arrays} == {"bf16"}
        assert all(int(sides.split("x")[-1]) % 8 == 0 for sides, _ in arrays)
    # A border that is changed in place would be a scatter, which is a kernel of its own.
    assert "stablehlo.scatter" not in text
    # A branch, or a loop of unknown length, waits for the host. There is one such loop, over blocks of steps. The
    # loop within it has a constant length.
    for word in ("callback", "infeed", "outfeed", "stablehlo.if"):
        assert word not in text
    # The only other branches are on the platform, which the compiler knows.
    assert set(re.findall(r'"stablehlo.case"\((%[a-z]+)', text)) == {"%c"}
    _, outer, inner = text.split("stablehlo.while")
    constant = r"cond \{\s*(%c\w*) = stablehlo.constant dense<10> .*\s*%\d+ = stablehlo.compare LT, %\w+, \1,"
    assert re.search(constant, inner)
    assert not re.search(constant, outer)


ONE_SCALE = [
    "net.channels_down=16",
    "net.channels_up=16",
    "net.channels_skip=4",
    "run.slots=1",
]


@pytest.mark.slow
@pytest.mark.skipif(
    jax.__version_info__ < (0, 11), reason="XLA of jax 0.10 undoes rematerialization on CPU"
)
def test_an_image_that_does_not_fit_is_rematerialized_with_less_memory_and_the_same_result():
    stored = build_small(*ONE_SCALE)
    limit = 0.95 * stored.bytes_per_device / 1e9
    rematerialized = build_small(*ONE_SCALE, f"run.max_memory={limit}")
    assert remat_of(rematerialized.estimator) == "on"
    assert rematerialized.bytes_per_device < 0.9 * stored.bytes_per_device
    for slots in (stored, rematerialized):
        slots.advance(4)
    np.testing.assert_allclose(rematerialized.estimate(0), stored.estimate(0), atol=1e-4)


@pytest.mark.parametrize(("remat", "expected"), [("auto", ["auto", "on"]), ("off", ["off"])])
def test_rematerialization_is_tried_unless_it_is_turned_off(slots, monkeypatch, remat, expected):
    tried = []

    def compile_nothing(self, case, estimator, per_device):
        tried.append(remat_of(estimator))
        return _Layout(estimator, per_device, None, slots.slot_shapes, 2_000_000, 2_000_000)

    monkeypatch.setattr(Slots, "_compile", compile_nothing)
    with pytest.raises(InputError, match="memory"):
        build_small(*ONE_SCALE, "run.max_memory=0.001", f"net.remat={remat}")
    assert tried == expected
