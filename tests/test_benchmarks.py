"""The benchmarks count and compare correctly, and survive measurements that fail."""

import importlib.util
import json
import re
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    ablation,
    ahead,
    ceilings,
    curves,
    folder_calibration,
    intervals,
    layers,
    mclmc,
    mixing,
    predictive_check,
    step,
)
from benchmarks.protocol import Record, Settings, Task, alternate, arithmetic, loop, measure_all
from dip_jax.cli.cost import network_work
from dip_jax.config import NetConfig
from dip_jax.engine.from_config import algorithm_from_config
from dip_jax.errors import InputError
from dip_jax.langevin import energy_gradient
from dip_jax.losses import gaussian, nll_scale
from dip_jax.nets import ConfiguredNet
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case
from tests.conftest import TINY, smooth_image

QUICK = Settings(rounds=2, round_seconds=0.001)


def _row(record):
    return [{"what": "good", "ms": 1.0}]


def _fails(record):
    raise MemoryError("Out of memory\nwhile trying")


def test_the_record_has_rows_for_failed_tasks_and_lists_tasks_that_did_not_fit(tmp_path):
    path, seen = tmp_path / "all.json", []

    def read_file(record):
        seen.append(json.loads(path.read_text()))
        return _row(record)

    record = Record({"device": "any"}, ["ceilings", "steps", "layers"], path)
    record.parts["ceilings"] += [{"precision": "float32", "gflops": 100.0}]
    tasks = [
        Task("layers", "too long", 3, 1, (1e15,), _row),
        Task("layers", "later", 2, 1, (), read_file),
        Task("steps", "first", 0, 1, (), _fails),
    ]
    measure_all(tasks, record, QUICK, end=time.time() + 1000)
    found = json.loads(path.read_text())
    assert found["device"] == "any"
    assert found["steps"] == [{"what": "first", "error": "MemoryError: Out of memory"}]
    assert found["layers"] == [{"what": "good", "ms": 1.0}]
    assert [row["what"] for row in found["not_measured"]] == ["too long"]
    # While the second task ran, the file had the first one and listed the others as missing.
    assert seen[0]["steps"] == found["steps"]
    assert [row["what"] for row in seen[0]["not_measured"]] == ["later", "too long"]


def test_rounds_alternate_and_a_run_that_fails_does_not_affect_the_others():
    calls = []

    def build(name, seconds):
        def run(count):
            calls.append(name)
            return next(seconds)

        return lambda: run

    def broken():
        raise ValueError("no such thing")

    builders = {
        "a": build("a", iter([1.0, 0.003, 0.001, 0.008])),
        "broken": broken,
        "b": build("b", iter([1.0, 0.5, 0.5, 0.5])),
    }
    rows = alternate(builders, Settings(rounds=3, round_seconds=0.5), max_steps=9)
    assert "".join(calls) == "ab" + "ababab"
    assert rows["a"]["ms"] == pytest.approx(3)
    assert rows["a"]["spread"] == pytest.approx(7)
    assert rows["broken"] == {"error": "ValueError: no such thing"}
    assert rows["b"]["ms"] == pytest.approx(500)


def test_a_loop_makes_at_least_the_given_steps_each_on_the_result_of_the_last():
    inputs = []

    def step(x):
        jax.debug.callback(lambda x: inputs.append(float(x)), x, ordered=True)
        return x + 1

    run = loop(step, jnp.float32(0), forecast_seconds=1.0)
    assert run(5) > 0
    assert inputs == [0, 1, 2, 3, 4, 5]  # the loop has a length of two


def test_ceilings_are_positive_and_each_precision_has_its_ceiling():
    record = Record({}, ["ceilings"])
    record.parts["ceilings"] += ceilings.measure_products(32, "float32", QUICK)
    record.parts["ceilings"] += ceilings.measure_copy(10_000, QUICK)
    assert record.parts["ceilings"][0]["gflops"] > 0
    assert record.copy_ceiling() > 0
    assert arithmetic("auto") == "float32"
    best = max(row.get("gflops", 0) for row in record.parts["ceilings"])
    assert record.ceiling("auto") == record.ceiling("tf32") == best
    assert record.ceiling("bfloat16") is None


def test_the_flops_of_a_step_agree_with_a_count_by_hand():
    # One scale, 40 x 40, code of 4: skip 1x1 4->4, halve 3x3/2 4->8, down 3x3 8->8 at 20 x 20, up
    # 3x3 12->8 and mix 1x1 8->8 at 40 x 40, head 1x1 8->3. The first two read the code.
    scale = {"channels_down": (8,), "channels_up": (8,), "channels_skip": (4,)}
    net = NetConfig(input_depth=4, **scale)
    first = 1600 * 16 + 400 * 9 * 32
    others = 400 * 9 * 64 + 1600 * 9 * 96 + 1600 * 64 + 1600 * 24
    assert layers.step_flops(net, 40) == 2 * (2 * first + 3 * others)


def test_the_layers_make_up_the_standard_network():
    net = build_config("denoise_single").net
    found = layers.convolutions(net, 256)
    assert len(found) == 26
    total = network_work(net, (256, 256, 3)).multiplications
    assert sum(layer.multiplications for layer in found) == total
    assert [layer.name for layer in found if layer.reads_code] == ["skip_0_conv", "halve_0_conv"]
    assert layers.step_flops(net, 256) == pytest.approx(115e9, rel=0.01)


def test_passes_are_the_operation_and_its_gradients():
    layer = layers.Layer("conv", (6, 5, 2), (3, 3, 2, 4), 1, False)
    operation = layers.convolution(layer, build_config("denoise_single").net, "patches")
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((6, 5, 4), layer.shape, layer.kernel)
    dy, x, kernel = (jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True))
    y, pull = jax.vjp(jax.jit(operation.apply), x, kernel)
    everything = jax.jit(layers.build_pass(operation, "all"))(dy, x, kernel)
    # Two programs with the same arithmetic may differ in the last bits.
    for result, expected in zip(everything, (y, *pull(dy)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    weight = layers.build_pass(operation, "weight")(dy, x, kernel)[0]
    np.testing.assert_allclose(weight, pull(dy)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [("float32", "f32", "HIGHEST"), ("tf32", "f32", "DEFAULT"), ("bfloat16", "bf16", "DEFAULT")],
)
def test_a_layer_is_computed_in_the_given_precision(precision, dtype, expected):
    layer = layers.Layer("conv", (6, 5, 8), (3, 3, 8, 8), 1, False)
    operation = layers.convolution(
        layer, build_config("denoise_single").net, "xla/separate", precision
    )
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in operation.shapes]
    text = jax.jit(operation.apply).lower(*shapes).as_text()
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert set(re.findall(r"x(b?f\d+)>", line)) == {dtype}
    assert set(re.findall(r"<precision (\w+)>", line)) == {expected}


def test_a_layer_is_timed_for_several_images_in_bfloat16():
    record = Record({}, ["layers"])
    layer = layers.Layer("conv", (6, 5, 2), (3, 3, 2, 4), 1, False)
    (row,) = layers.measure(
        record,
        name="conv",
        operations={"xla": layers.convolution(layer, build_config("denoise_single").net, "xla")},
        kinds=("all",),
        batch=2,
        precision="bfloat16",
        settings=QUICK,
    )
    assert row["ms"] == 2 * row["ms_per_image"] > 0
    assert row["gflops"] * row["ms"] * 1e6 == pytest.approx(2 * 3 * 2 * layer.multiplications)
    # y, dy, x, dx, k and dk with two bytes each.
    assert row["gigabytes_per_second"] * row["ms"] * 1e6 == pytest.approx(8 * (120 + 60 + 72))


def test_our_step_is_measured_if_pytorchs_cannot_be():
    # The identity is the network that compiles fastest.
    overrides = ("net.kind=identity", "fit.optimize=code", "stop.rule=fixed")
    settings = QUICK._replace(overrides=overrides)
    rows = step.measure(
        Record({}, ["steps"]),
        size=33,
        batch=1,
        precision="auto",
        slot_mode="auto",
        torch_modes=("no such mode",),
        ours=True,
        settings=settings,
    )
    ours, singly, torch = rows
    assert ours["ms"] > 0
    assert ours["images_per_hour"] == pytest.approx(3.6e6 / 1800 / ours["ms"])
    assert ours["forecast_gigabytes"] > 0
    assert singly["ms"] > 0
    assert torch["error"]


def _fit_row(label, seed, averages, estimate):
    return {
        "label": label,
        "picture": "a",
        "seed": seed,
        "every": 10,
        "psnr_average": averages,
        "answer": estimate,
        "num_networks": 1,
        "network_steps": 10 * len(averages),
    }


def test_a_setting_is_compared_with_the_goal_for_the_same_image_and_seed(tmp_path):
    fits = [
        _fit_row("2018", 0, [None, 20.0, 30.0, 28.0], 27.0),
        _fit_row("2018", 1, [None, 10.0, 15.0, 20.0], 20.0),
        _fit_row("narrow", 1, [None, 19.0, 20.5], 20.5),
        _fit_row("narrow", 2, [None, 99.0, 99.0], 99.0),  # the goal has no such seed
    ]
    times = [
        {"label": "2018", "library": "PyTorch", "ms": 100.0, "num_networks": 1},
        {"label": "2018", "library": "ours", "ms": 120.0, "num_networks": 2},
        {"label": "narrow", "library": "ours", "ms": 10.0, "num_networks": 1},
    ]
    found = list(curves.comparisons(fits, times, "2018"))
    assert [setting.label for setting in found] == ["2018, PyTorch", "2018", "narrow (1 of 2)"]
    goal, _, narrow = found
    assert [curves.best(row) for row in goal.rows] == [30.0, 20.0]
    assert [row["seed"] for row in narrow.rows] == [row["seed"] for row in narrow.goals] == [1]
    assert curves.steps_to(narrow.rows[0], narrow.goals[0]["answer"]) == 21
    assert curves.steps_to(narrow.rows[0], 21.0) == np.inf
    table = curves.build_table(found, "any")
    cells = {column.header: list(column.cells)[2] for column in table.columns[:5]}
    assert cells["dB"] == "20.50"
    assert cells["vs goal"] == "+0.50"
    seconds = next(list(column.cells) for column in table.columns if column.header == "s")
    assert seconds == ["4.0", "2.4", "0.3"]
    curves.draw([("denoise", found)], tmp_path / "docs" / "seconds.png")
    assert (tmp_path / "docs" / "seconds.png").stat().st_size > 5000


# A shortened program of XLA: a loop with two fusions, one of them asynchronous, a convolution, a
# copy, and two loops inside it, of three iterations and of an unknown number.
PROGRAM = """
%angle.1 (p.2: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.2 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.2), index=0
  %v.1 = f32[8]{0} get-tuple-element(%p.2), index=1
  %many.1 = (f32[8]{0}, f32[8]{0}, f32[8]{0}, f32[8]{0}, f32[8]{0}, /*index=5*/f32[8]{0}) fusion(%v.1), kind=kLoop, calls=%fused.3
  %w.1 = f32[8]{0} get-tuple-element(%many.1), index=5
  ROOT %out.2 = (s32[], f32[8]{0}) tuple(%i.1, %w.1)
}

%body.2 (p.1: (f32[4,4,8], bf16[2,8])) -> (f32[4,4,8], bf16[2,8]) {
  %p.1 = (f32[4,4,8]{2,1,0}, bf16[2,8]{1,0}) parameter(0)
  %x.1 = f32[4,4,8]{2,1,0} get-tuple-element(%p.1), index=0
  %k.1 = bf16[2,8]{1,0} get-tuple-element(%p.1), index=1
  %loop.1 = f32[4,4,8]{2,1,0} fusion(%x.1, %k.1), kind=kLoop, calls=%fused.1
  %conv.1 = (f32[4,4,8]{2,1,0}, u8[16]{0}) custom-call(%loop.1, %k.1), window={size=3x3}, custom_call_target="__cudnn$convForward"
  %y.1 = f32[4,4,8]{2,1,0} get-tuple-element(%conv.1), index=0
  %start.1 = ((f32[4,4,8]), f32[8]{0}) fusion-start(%y.1), calls=%fused.2
  %done.1 = f32[8]{0} fusion-done(%start.1)
  %copy.1 = bf16[2,8]{1,0} copy(%k.1)
  %angles.1 = (s32[], f32[8]{0}) while(%start.2), condition=%test.2, body=%angle.1, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %reject.1 = (s32[], f32[8]{0}) while(%angles.1), condition=%test.3, body=%angle.1
  ROOT %out.1 = (f32[4,4,8]{2,1,0}, bf16[2,8]{1,0}) tuple(%y.1, %copy.1)
}

ENTRY %main.3 (a.1: f32[4,4,8], b.1: bf16[2,8]) -> (f32[4,4,8], bf16[2,8]) {
  %a.1 = f32[4,4,8]{2,1,0} parameter(0)
  %b.1 = bf16[2,8]{1,0} parameter(1)
  %in.1 = (f32[4,4,8]{2,1,0}, bf16[2,8]{1,0}) tuple(%a.1, %b.1)
  ROOT %while.1 = (f32[4,4,8]{2,1,0}, bf16[2,8]{1,0}) while(%in.1), condition=%test.1, body=%body.2
}
"""


def test_the_kernels_of_a_loop_and_their_bytes_are_counted():
    image, kernel = 4 * 4 * 8 * 4, 2 * 8 * 2
    found = ahead.count_kernels(PROGRAM)
    # The fusion of the inner loops has six results, which XLA numbers. It runs three times and once.
    assert found.number == {"fusion": 2 + 3 + 1, "__cudnn$convForward": 1, "copy": 1}
    inner = 4 * (6 + 1) * 8 * 4
    assert found.bytes["fusion"] == (image + kernel + image) + (image + 8 * 4 + image) + inner
    assert found.unknown_loops == 1
    assert found.bytes["__cudnn$convForward"] == image + kernel + image + 16
    assert found.bytes["copy"] == 2 * kernel


@pytest.mark.parametrize("device", ["h200", "v5e"])
def test_a_program_is_compiled_ahead_for_a_device_that_is_only_described(device, monkeypatch):
    # The compiler of this machine stands in for that of the device.
    monkeypatch.setattr(
        ahead.topologies,
        "get_topology_desc",
        lambda *_, **__: SimpleNamespace(devices=jax.devices()),
    )
    row = ahead.compile_ahead(device, 40, 2, [*TINY, "net.precision=float32"])
    assert (row["target"], row["size"], row["batch"]) == ("cpu", 40, 2)
    assert row["gigabytes"] > 0
    assert ("kernels" in row) == (device == "h200")
    if device == "h200":  # steps run in blocks of ten, and one of them is counted
        assert 0 < row["kernels"] < 1000


@pytest.mark.skipif(
    any(importlib.util.find_spec(f"jax_cuda{number}_plugin") for number in (12, 13)),
    reason="the compiler is installed",
)
def test_a_missing_compiler_is_reported_with_the_command_to_install_it():
    with pytest.raises(InputError, match=r"pip install 'jax\[cuda12\]"):
        ahead.compile_ahead("h200", 64, 1, [])


def test_an_ablation_chooses_the_one_estimate_that_is_best_in_all_channels_together():
    clean = np.random.default_rng(0).random((12, 12, 3)).astype(np.float32)
    gray = np.float32([1, 1, 1])
    color = np.float32([1, -1, 0])
    # The first is best in brightness, the second in color, the third on the whole.
    errors = (0.3 * color, 0.3 * gray, 0.1 * (gray + color))
    predictions = np.stack([np.stack([clean + error] * 2) for error in errors])
    folds = np.indices((12, 12)).sum(axis=0) % 2
    found = ablation.one_estimate(predictions, clean, folds, np.ones((12, 12), bool))
    np.testing.assert_array_equal(found.weights, [[0, 0, 0], [0, 0, 0], [1, 1, 1]])


def test_an_ablation_is_compared_on_the_same_images_and_averaged_over_seeds():
    psnrs = {
        ("all", "a", 0): 30.0,
        ("all", "a", 1): 31.0,
        ("all", "b", 0): 20.0,
        ("less", "a", 0): 29.0,
        ("less", "a", 1): 28.0,
        ("less", "b", 0): 19.5,
    }
    rows = [
        {"variant": variant, "picture": picture, "seed": seed, "psnr": psnr}
        for (variant, picture, seed), psnr in psnrs.items()
    ]
    table = ablation.summary_table(rows)
    cells = [[column._cells[row] for column in table.columns] for row in range(2)]
    # Pictures a and b lose 2 and 0.5 dB, 1.25 on average; their standard error is 1.5 / 2.
    assert cells[1] == ["less", "25.50", "-1.25", "0.75", "-2.00", "-0.50", "3"]
    assert cells[0][2] == "+0.00"


def test_each_answer_of_the_check_of_hidden_pixels_has_a_column():
    # So few pixels of so strong noise give every answer.
    for factor, is_clipped in ((0.0, False), (1.0, False), (2.0, False), (1.0, True)):
        rates = predictive_check.answers(12, factor, 0.03, 0.1, 200, is_clipped=is_clipped)
        assert sum(rates.values()) == pytest.approx(1)
        assert rates["noise too high"] > 0


def sampling_settings(num_steps):
    overrides = [*TINY, "sgld.burn_in=20", "sgld.thin=4", "sgld.held_out_fraction=0"]
    return {"num_steps": num_steps, "chains": 2, "overrides": overrides}


def noisy_case(config):
    return simulate_case(jax.random.key(0), config.task, "a", smooth_image())


@pytest.mark.slow
def test_mclmc_has_the_energy_that_the_samplers_of_the_package_have():
    config = mixing.config_of("underdamped", **sampling_settings(60))
    case, net = noisy_case(config), ConfiguredNet(config.net)
    fit = algorithm_from_config(config, net)
    state = fit.init(jax.random.key(0), case.problem, case.shape)
    first, step = state.params, jax.jit(fit.step)
    for _ in range(20):
        state, _ = step(case.problem, state)
    energy = mclmc.Energy(state, case.problem, config)
    assert energy.moves.all()

    def loss(params):
        image = net(case.shape).apply(params["net"], state.variables["code"])
        return jnp.mean((image - case.problem.measurement) ** 2)

    transformation = energy_gradient(None)
    expected, _ = transformation.update(
        jax.grad(loss)(state.params),
        transformation.init(first),
        state.params,
        scale=nll_scale(gaussian, case.problem),
    )
    gradient = jax.grad(energy)(energy.root * energy.first) * energy.root
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(expected)])
    np.testing.assert_allclose(gradient, flat, rtol=1e-3, atol=1e-4 * jnp.abs(flat).max())


@pytest.mark.slow
def test_both_integrators_of_mclmc_make_the_same_number_of_gradients():
    settings = sampling_settings(60)
    case = noisy_case(mixing.config_of("underdamped", **settings))
    errors = []
    for sampler in ("mclmc step=2", "mclmc step=0.5", "mclmc step=0.5 integrator=verlet"):
        posterior, curves, _ = mixing.sample(case, sampler, **settings)
        # 40 gradients of each chain after the burn-in, a sample after every fourth.
        assert posterior.num_samples == 2 * 10
        assert posterior.samples.shape == (20, *case.shape)
        np.testing.assert_allclose(
            posterior.traces[:, :, -2], posterior.samples.reshape(2, 10, -1).mean(axis=2), rtol=1e-4
        )
        row = mixing.row_of(posterior, curves, case.reference, 25 / 255, 60)
        errors.append(row["energy_var"])
    assert errors[1] < errors[0]
    with pytest.raises(InputError, match="Expected step, length and integrator"):
        mixing.sample(case, "mclmc stepp=2", **settings)


def test_in_drawn_folders_without_noise_the_bound_holds_as_often_as_its_rank_says():
    found = folder_calibration.rates(30, 10**7, 0.03, 0.01, repeats=1000)
    assert found.bound == pytest.approx(found.exact_bound, rel=1e-3)
    assert found.below == pytest.approx(28 / 31, abs=0.01)  # four standard errors
    assert found.told == 1
    assert found.covered == pytest.approx(0.95, abs=0.03)


def test_every_method_of_intervals_has_valid_settings():
    for method in intervals.METHODS:
        config = intervals.config_of(method, seed=1, overrides=["fit.perturbation=0.02"])
        assert (config.run.seed, config.fit.perturbation) == (1, 0.02)


def drawn_interval(std=0.05, stated=0.05):
    draw = np.random.default_rng(0)
    mean = draw.random((64, 64, 3))
    return intervals.Interval(
        mean, np.full(mean.shape, stated), mean + draw.normal(0, std, mean.shape)
    )


@pytest.mark.parametrize("side", [1, 4])
def test_means_of_blocks_are_covered_as_often_as_their_spread_says(side):
    interval = drawn_interval()
    errors = np.random.default_rng(1).normal(0, 0.05, (400, *interval.mean.shape))
    covered = intervals.blocks_covered(interval.mean + errors, interval, side, is_spread=True)
    assert covered == pytest.approx(0.9, abs=0.02)
    # The stated deviation, not the size of the spread, counts.
    wide = intervals.blocks_covered(interval.mean + 3 * errors, interval, side, is_spread=True)
    assert wide == pytest.approx(covered)
    samples = interval.mean + errors
    assert intervals.blocks_covered(samples, interval, side, is_spread=False) == pytest.approx(
        0.9, abs=0.02
    )


def test_the_scale_of_a_crop_comes_from_the_others():
    crops = [drawn_interval(), drawn_interval(std=0.1), drawn_interval(std=0.1)]
    assert intervals.scale_of_others(crops, 0) == pytest.approx(2, rel=0.02)
    assert intervals.scale_of_others(crops, 1) == pytest.approx(np.sqrt(2.5), rel=0.02)


def test_texture_is_where_the_detail_is():
    image = np.zeros((64, 64, 1))
    image[:, 32:] = np.random.default_rng(0).random((64, 32, 1))
    found = intervals.texture(image)
    assert found[:, 45:].min() > 20 * found[:, :19].max()
