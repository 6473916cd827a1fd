import pytest

from dip_jax.cli.cost import Machine, Work, forecast_seconds, network_work
from dip_jax.presets import build_config


@pytest.mark.parametrize(
    ("preset", "shape", "billions"),
    [
        ("denoise_single", (512, 512, 3), 77.5),
        ("inpaint", (512, 512, 3), 130.0),
        ("dejpeg_2018", (256, 384, 3), 0.65),
    ],
)
def test_the_networks_of_2018_need_the_multiplications_that_were_counted_then(
    preset, shape, billions
):
    work = network_work(build_config(preset).net, shape)
    assert work.multiplications == pytest.approx(1e9 * billions, rel=0.01)


def test_a_step_takes_the_time_of_its_products_and_of_its_traffic():
    machine = Machine(multiplications=1e9, values_written=1e8)
    both = forecast_seconds(Work(0, 2e9, 3e8), machine)
    products = forecast_seconds(Work(0, 2e9, 0.0), machine)
    traffic = forecast_seconds(Work(0, 0.0, 3e8), machine)
    assert both == pytest.approx(products + traffic)
    assert forecast_seconds(Work(0, 4e9, 0.0), machine) == pytest.approx(2 * products)
