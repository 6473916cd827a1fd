"""The guide of a JPEG file lies in its intervals."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from dip_jax.base import Case, Problem
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.restore import restore
from dip_jax.ensemble import jpeg_guide as module
from dip_jax.ensemble.jpeg_error import error_of_decoded, standard_quality
from dip_jax.ensemble.jpeg_guide import JpegGuide, guide_of_jpeg
from dip_jax.ensemble.similar_patches import nonlocal_ridge
from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import to_upright
from dip_jax.operators import Identity
from dip_jax.operators.jpeg import standard_tables
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case
from tests.conftest import TINY
from tests.engine.cases import simulate

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = ["net.channels_down=4", "net.channels_up=4", "net.channels_skip=2", "net.input_depth=4"]
PHOTO = (data.astronaut()[:256, 130:386].reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) / 255).astype(
    np.float32
)


@pytest.fixture(scope="module")
def jpeg_case():
    return simulate(PHOTO[:64, :64], build_config("dejpeg"))


def test_the_guide_of_a_jpeg_file_lies_in_its_intervals_and_is_nearer_to_the_image(jpeg_case):
    guide = guide_of_jpeg(jpeg_case)
    problem = jpeg_case.problem
    outside = jnp.abs(problem.operator(jnp.asarray(guide)) - problem.measurement) > (
        problem.tolerance + 1e-3
    )
    assert float(jnp.mean(outside)) < 0.01
    errors = [np.square(x - jpeg_case.reference).mean() for x in (guide, jpeg_case.preview)]
    assert errors[0] < 0.85 * errors[1]


def test_a_decoded_image_whose_file_is_lost_is_denoised_by_its_own_error(jpeg_case):
    decoded = jpeg_case.preview
    case = build_case(build_config("dejpeg").task, "a", decoded)
    assert isinstance(case.problem.operator, Identity)
    tables, subsampling = standard_tables(10), "4:2:0"
    assert standard_quality(decoded) == (10, subsampling)
    level = error_of_decoded(decoded, tables, subsampling)
    expected = nonlocal_ridge(decoded, level)
    guided = JpegGuide().added(case)
    np.testing.assert_allclose(guided.problem.code_image, expected, atol=1e-5)


@pytest.mark.parametrize("quality", [10, 30, 75])
def test_quality_and_error_of_a_decoded_image_are_found(quality):
    case = simulate(PHOTO, build_config("dejpeg", overrides=[f"task.quality={quality}"]))
    found, subsampling = standard_quality(case.preview)
    assert abs(found - quality) <= 3
    assert subsampling == "4:2:0"
    error = np.sqrt(np.square(case.preview - PHOTO).mean())
    estimate = error_of_decoded(case.preview, case.jpeg.tables, subsampling)
    assert 0.8 < estimate / error < 1.1


def test_an_image_that_was_never_compressed_has_a_high_quality():
    assert standard_quality(PHOTO)[0] > 95
    assert standard_quality(PHOTO[..., :1])[0] >= 95


def test_a_case_without_guide_gets_a_note_and_one_with_a_guide_keeps_it(image):
    guide = JpegGuide(code_depth=4)
    decoded = Case("a", Problem(Identity(), jnp.asarray(image), noise_std=np.nan), image.shape)
    known = decoded._replace(problem=decoded.problem._replace(noise_std=0.1))
    photons = decoded._replace(problem=decoded.problem._replace(peak=30.0))
    for case in (known, photons):
        (note,) = guide.added(case).notes
        assert note.startswith("without guide, which needs a JPEG file")
        assert guide.seconds_on_host(case) == 0
    assert "without guide" in JpegGuide(code_depth=3).added(decoded).notes[0]
    assert guide.seconds_on_host(decoded) > 0
    given = decoded._replace(problem=decoded.problem._replace(code_image=jnp.zeros(image.shape)))
    assert guide.added(given) is given


def test_all_networks_of_an_image_have_its_guide_as_their_code(image, monkeypatch):
    guide, calls = 0.25 * np.ones_like(image), []

    def counted(case):
        calls.append(case.name)
        return guide

    monkeypatch.setattr(module, "guide_of_jpeg", counted)
    config = build_config("dejpeg", overrides=[*SMALL, "fit.num_steps=2"])
    (result,) = restore([simulate(image, config)], config)
    assert calls == ["a"]
    assert config.fit.num_seeds == len(result.networks) == 2
    for network in result.networks:
        code = network.slot.state.frozen["code"]
        np.testing.assert_allclose(code[:40, :36, :3], -0.25)
        assert np.std(code[..., 3]) > 0.01


def test_a_result_has_the_note_that_a_guide_is_missing(image):
    config = build_config("dejpeg", overrides=[*SMALL, "net.input_depth=3", "fit.num_steps=2"])
    (result,) = restore([build_case(config.task, "a", image)], config)
    assert sum(note.startswith("without guide") for note in result.notes) == 1


@pytest.mark.parametrize(
    ("task", "single"),
    [("dejpeg", "dejpeg_unguided"), ("super_resolve", "super_resolve_single")],
)
def test_defaults_of_two_networks_give_way_to_single_ones(task, single):
    for override in ("stop.rule=wmv", "fit.code=normal", "fit.schedule=cosine", "net.kind=unet"):
        expected = build_config(single, overrides=[override])
        assert build_config(task=task, overrides=[override]) == expected
    one = build_config(task=task, overrides=["fit.num_seeds=1"])
    assert one == build_config(task, overrides=["fit.num_seeds=1"])
    assert (estimator_from_config(one).guide is None) == (task == "super_resolve")
    assert estimator_from_config(build_config(single)).guide is None
    assert build_config(task=task, overrides=TINY).fit.code == "uniform"


def test_a_guide_of_another_measurement_than_a_jpeg_file_is_refused():
    with pytest.raises(InputError, match="JPEG files"):
        build_config("super_resolve", overrides=["fit.code=guided"])


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_level_does_not_depend_on_the_orientation_of_the_file(jpeg_case, orientation):
    # The same pixels and coefficients, to be shown mirrored or turned.
    file = jpeg_case.jpeg._replace(orientation=orientation)
    turned = jpeg_case._replace(jpeg=file, preview=to_upright(jpeg_case.preview, orientation))
    assert module._first_level(turned) == pytest.approx(module._first_level(jpeg_case), rel=1e-5)
