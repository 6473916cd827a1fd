"""What the compiled step does, counted instead of timed, so that nothing grows unnoticed.

The bounds are what was counted (the larger of jax 0.10 and 0.12) and a tenth. A change that goes above has to say
why in docs/performance-log.md; one that goes far below should lower them.
"""

import re
from collections import Counter
from unittest import mock

import jax
import numpy as np
import pytest

from dip_jax.base import Case
from dip_jax.config import Config
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

# One worker has them all: the program that several tests look at is compiled once.
pytestmark = pytest.mark.xdist_group("program")

SMALL = [
    "net.channels_down=16,16,16",
    "net.channels_up=16,16,16",
    "net.channels_skip=4,4,4",
    "fit.num_steps=1000",
    "run.chunk=4",
    "run.slots=2",
]
SIDE = 64


def build_case(config: Config, gray: float) -> Case:
    reference = np.full((SIDE, SIDE, 3), gray, np.float32)
    case = simulate_case(jax.random.key(0), config.task, str(gray), reference)
    return pad_case(case, config.net.sides_per_octave)


def build_slots(*overrides: str) -> Slots:
    config = build_config(overrides=[*SMALL, *overrides])
    case = build_case(config, 0.5)
    slots = Slots(case, config)
    slots.put(0, case)
    return slots


@pytest.fixture(scope="module")
def slots() -> Slots:
    return build_slots()


def text_for_a_gpu() -> str:
    """What its compiler would be given; no GPU is needed for that."""
    config = build_config(overrides=[*SMALL, "net.precision=bfloat16", "run.max_memory=100"])
    texts = []

    def lower(form, trace, arguments):
        function, about = trace()
        traced = jax.jit(function).trace(*arguments(about))
        texts.append(traced.lower(lowering_platforms=("cuda",)).as_text())
        raise InterruptedError("There is nothing to compile it.")

    with (
        mock.patch("jax.default_backend", return_value="gpu"),
        mock.patch("dip_jax.engine.slots.build_program", lower),
        pytest.raises(InterruptedError),
    ):
        Slots(build_case(config, 0.5), config)
    return texts[0]


@pytest.fixture(scope="module")
def operations(slots) -> Counter:
    """How often each kind of instruction stands in the program, within fusions and loops too."""
    return Counter(re.findall(r" = \S+ ([a-z][a-z0-9-]*)\(", slots.text()))


MOST_FLOPS, MOST_BYTES = 142e6, 139e6
MOST = {
    "copy": 1820,
    "transpose": 2,
    "fusion": 1960,
    "dot": 50,
    # Within loops these are slow on CPU.
    "convolution": 0,
    "scatter": 0,
}


def test_the_arithmetic_and_the_traffic_of_a_step_do_not_grow(slots):
    cost = slots.cost()
    assert 0.7 * MOST_FLOPS < cost["flops"] <= MOST_FLOPS
    assert 0.7 * MOST_BYTES < cost["bytes accessed"] <= MOST_BYTES


@pytest.mark.parametrize("kind", MOST)
def test_instructions_do_not_become_more(operations, kind):
    assert operations[kind] <= MOST[kind]


def test_nothing_passes_between_host_and_device_within_a_chunk(slots, operations):
    for kind in ("infeed", "outfeed", "send", "recv"):
        assert operations[kind] == 0
    assert "callback" not in slots.text()


def test_the_state_is_given_away_not_copied(slots):
    leaves = len(jax.tree.leaves(slots.slot_shapes))
    aliases = re.search(r"input_output_alias=\{(.*)\}, entry", slots.text())
    assert aliases is not None
    assert aliases[1].count("alias)") == leaves


def test_the_state_holds_little_more_than_weights_moments_and_a_snapshot(slots):
    params = sum(leaf.size for leaf in jax.tree.leaves(slots.slot_shapes.state.params))
    state = sum(leaf.size for leaf in jax.tree.leaves(slots.slot_shapes))
    images, code = 2 * SIDE * SIDE * 3, SIDE * SIDE * 32  # the average, the answer; what is fed in
    # Weights and two moments of Adam, once more for the guard.
    assert 6 * params < state < 1.05 * (6 * params + images + code)


def test_another_picture_and_another_count_compile_nothing(slots):
    slots.advance(2)
    other = build_case(slots.config, 0.2)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    slots.put(1, other)
    slots.advance(3)
    assert compiled == []


def test_for_a_gpu_convolutions_are_aligned_borders_whole_and_nothing_asks_the_host():
    text = text_for_a_gpu()
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    # Two pictures, the merge of 4 + 16 channels at the finest scale: forward, input and weight.
    assert len(lines) == 3
    for line in lines:
        arrays = re.findall(r"tensor<([\dx]+)x(\w+)>", line.rpartition(" : ")[2])
        assert {kind for _, kind in arrays} == {"bf16"}
        assert all(int(sides.split("x")[-1]) % 8 == 0 for sides, _ in arrays)
    # Each border that is changed in place would be one, and a kernel of its own.
    assert "stablehlo.scatter" not in text
    # A branch, and a loop whose length is not known, wait for the host to be told what comes next: there is one
    # such loop, of blocks of steps, and in it one of as many turns as a constant says.
    for word in ("callback", "infeed", "outfeed", "stablehlo.if"):
        assert word not in text
    # What is left is which platform it is: known, and gone when it is compiled.
    assert set(re.findall(r'"stablehlo.case"\((%[a-z]+)', text)) == {"%c"}
    _, outer, inner = text.split("stablehlo.while")
    known = r"cond \{\s*(%c\w*) = stablehlo.constant dense<10> .*\s*%\d+ = stablehlo.compare LT, %\w+, \1,"
    assert re.search(known, inner)
    assert not re.search(known, outer)


# The compiler that comes with jax 0.10 merges on CPU what was to be computed twice.
merges = pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="no effect on CPU")


@pytest.mark.slow
@merges
def test_rematerialised_it_needs_less_memory_and_makes_the_same_image():
    net = ["net.channels_down=32,32", "net.channels_up=32,32", "net.channels_skip=4,4"]
    images, needed = [], []
    for remat in ("off", "on"):
        slots = build_slots(*net, f"net.remat={remat}", "run.slots=1")
        slots.advance(4)
        images.append(slots.estimate(0))
        needed.append(slots.bytes_per_device)
    assert needed[1] < 0.9 * needed[0]
    np.testing.assert_allclose(images[1], images[0], atol=1e-4)


@merges
def test_a_picture_that_would_not_fit_is_rematerialised():
    net = ["net.channels_down=32,32", "net.channels_up=32,32", "net.channels_skip=4,4"]
    one = [*net, "run.slots=1"]
    roomy = build_slots(*one).bytes_per_device
    tight = build_slots(*one, f"run.max_memory={0.95 * roomy / 1e9}")
    assert tight.config.net.remat == "on"
    with pytest.raises(InputError, match="memory"):
        build_slots(*one, f"run.max_memory={0.95 * roomy / 1e9}", "net.remat=off")
