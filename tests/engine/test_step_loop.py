import numpy as np
import pytest

from tests.engine.cases import restore_by_name, tiny_config

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


@pytest.mark.parametrize("slot_mode", ["vmap", pytest.param("unroll", marks=pytest.mark.slow)])
def test_all_slot_modes_agree_up_to_rounding(image, slot_mode):
    first, second = (
        restore_by_name(image, "abc", tiny_config("run.slots=2", f"run.slot_mode={mode}"))
        for mode in ("map", slot_mode)
    )
    for name in "abc":
        np.testing.assert_allclose(first[name].curve["loss"], second[name].curve["loss"], rtol=2e-3)
        np.testing.assert_array_equal(first[name].curve["step"], second[name].curve["step"])


@pytest.mark.parametrize("slot_mode", ["vmap", pytest.param("map", marks=pytest.mark.slow)])
def test_blocks_of_steps_and_packed_arrays_do_not_change_the_fits(image, monkeypatch, slot_mode):
    config = tiny_config("run.slots=2", f"run.slot_mode={slot_mode}")
    expected = restore_by_name(image, "abc", config)
    # Off CPU, slots that run in parallel keep their small arrays in one. The chunks have 1, 5, 5 and 1 steps, so the
    # last block of each chunk has superfluous steps.
    monkeypatch.setattr("dip_jax.engine.step_loop.is_cpu", lambda: False)
    monkeypatch.setattr("dip_jax.engine.step_loop.block_length", lambda: 4)
    results = restore_by_name(image, "abc", config)
    for name, result in results.items():
        assert result.num_steps == expected[name].num_steps == 12
        np.testing.assert_allclose(result.image, expected[name].image, atol=2e-5)
        np.testing.assert_array_equal(result.curve["step"], np.arange(12))
