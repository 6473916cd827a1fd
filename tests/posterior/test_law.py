import numpy as np

from dip_jax.posterior.law import law_of


def test_the_law_is_the_mean_over_the_steps_that_gave_samples_of_all_chains():
    curves = [
        {"sampled": np.array([0, 1, 1]), "temperature": np.array([9.0, 1.0, 2.0]), "step_size": np.full(3, 0.1)},
        {"sampled": np.array([0, 0, 1]), "temperature": np.array([9.0, 9.0, 3.0]), "step_size": np.full(3, 0.2)},
    ]  # fmt: skip
    law = law_of(curves)
    assert law.temperature == 2.0
    assert np.isclose(law.step_size, 0.4 / 3)
    assert np.isnan(law.virial)
    assert "got 2.00" in law.message


def test_a_sampler_that_states_nothing_has_no_law_and_no_message():
    for curves in ([], [{"sampled": np.zeros(3)}], [{"sampled": np.ones(2), "loss": np.ones(2)}]):
        law = law_of(curves)
        assert np.isnan(law).all()
        assert law.message == ""
