from dip_jax.stopping import fixed
from tests.stopping.toy_fits import feed


def test_fixed_keeps_the_last_estimate_and_never_fires():
    states, improved = feed(fixed(), [0.1, 0.2, 0.3])
    assert improved == [True, True, True]
    assert not states[-1].done
    assert states[-1].estimate_step == 2
