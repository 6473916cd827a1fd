"""A small case, and synthetic results for it."""

from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dip_jax.base import Case, Posterior, PosteriorKind, Problem, Result, Status
from dip_jax.operators import Identity

STEPS, SHAPE = 25, (40, 36, 3)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def case() -> Case:
    """A noisy image with its reference and one note."""
    reference = random(1).uniform(0.2, 0.8, SHAPE).astype(np.float32)
    measurement = reference + np.float32(0.1) * random(2).standard_normal(SHAPE, np.float32)
    problem = Problem(Identity(), jnp.asarray(measurement), 0.1)
    return Case("photo", problem, SHAPE, reference, notes=("of the case",))


def curve_of(start: float = 20.0) -> dict[str, np.ndarray]:
    """A curve whose best step is 15."""
    steps = np.arange(STEPS)
    psnr = (start - 0.01 * (steps - 15.0) ** 2).astype(np.float32)
    return {
        "step": steps,
        "loss": (0.1 / (steps + 1)).astype(np.float32),
        "psnr": psnr - 1,
        "psnr_average": psnr,
    }


@pytest.fixture
def result(case) -> Result:
    """A fit that stopped by its rule at step 12 of 25."""
    image = (0.5 * case.reference + 0.5 * np.asarray(case.problem.measurement)).astype(np.float32)
    signal = np.where(np.arange(STEPS) < 5, np.nan, 1e-3)
    return Result(
        name=case.name,
        status=Status.STOPPED,
        image=image,
        raw=image - np.float32(0.01),
        num_steps=STEPS,
        stop_step=12,
        num_rollbacks=1,
        num_params=100,
        curve={**curve_of(), "signal_wmv": signal},
        seconds=5.0,
        compile_seconds=1.0,
        notes=("of the result",),
        stops={"wmv": (12, True), "emv": (24, False)},
    )


@pytest.fixture
def sampled(case, result) -> Result:
    """Two chains of 10 samples each, with the fit that they are compared with."""
    curve = curve_of(22.0)
    is_sampled = curve["step"] >= 15
    mean_psnr = np.where(is_sampled, curve["psnr_average"] + 2, np.nan)
    curve |= {"psnr_mean": mean_psnr, "sampled": is_sampled}
    images = case.reference + 0.05 * random(3).standard_normal((20, *SHAPE)).astype(np.float32)
    traces = images[:, :4, 0, 0].reshape(2, 10, 4)
    posterior = Posterior(
        mean=images.mean(axis=0),
        std=images.std(axis=0, ddof=1),
        chain_means=images.reshape(2, 10, *SHAPE).mean(axis=1),
        num_samples=20,
        traces=traces,
        trace_names=("x[0,0,0]", "x[1,0,0]", "x[2,0,0]", "misfit"),
        samples=images[:3],
        num_kept=(2, 1),
    )
    return result._replace(
        status=Status.DONE,
        image=posterior.mean,
        raw=posterior.mean,
        curve=curve,
        network_curves=(curve, curve),
        posterior=posterior,
        point_estimate=result,
        held_out=np.arange(images[0].size).reshape(SHAPE) % 7 == 0,
    )


@pytest.fixture
def seeds(result, sampled) -> Result:
    """A fit with three seeds, one of them left out of the mean."""
    estimates = sampled.posterior.samples
    posterior = Posterior(
        mean=estimates[:2].mean(axis=0),
        std=estimates[:2].std(axis=0, ddof=1),
        chain_means=estimates,
        num_samples=2,
        traces=np.zeros((3, 0, 0), np.float32),
        trace_names=(),
        samples=estimates,
        kind=PosteriorKind.SEEDS,
    )
    curves = tuple(curve_of(20.0 + i) for i in range(3))
    return result._replace(posterior=posterior, curve=curves[0], network_curves=curves)


@pytest.fixture
def figure_of(monkeypatch, tmp_path):
    """Calls a function that draws, and returns its figure: `figure_of(draw_sheet, case, result)`."""

    def call(function, *args, **options):
        figures = []
        monkeypatch.setitem(
            function.__globals__, "save_png", lambda path, figure: figures.append(figure)
        )
        function(tmp_path / "figure.png", *args, **options)
        (figure,) = figures
        return figure

    return call


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that are drawn; a figure holds others, such as ticks outside the limits."""
    drawn, draw = [], Text.draw

    def record(text, renderer):
        draw(text, renderer)
        if text.get_visible() and text.get_text():
            drawn.append(text)

    with mock.patch.object(Text, "draw", record):
        FigureCanvasAgg(figure).draw()
    return drawn


def texts(figure: Figure) -> list[str]:
    """The words that are drawn."""
    return [text.get_text() for text in drawn_texts(figure)]


def assert_texts_do_not_overlap(figure: Figure) -> None:
    """Asserts that every text lies inside the figure, and that no two overlap."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn_texts(figure)]
    width, height = figure.canvas.get_width_height()
    for i, (text, box) in enumerate(boxes):
        is_inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert is_inside, text
        for other, other_box in boxes[:i]:
            assert not box.overlaps(other_box), f"{text} and {other}"
