"""Checks that the settings of a run fit its task. `Config` checks the settings among themselves, without JAX."""

from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.tasks.registry import task_of, tasks_with_code_from_guide, tasks_with_setting


def check_settings(config: Config) -> None:
    """Checks that the settings fit the task.

    Args:
      config: The settings.

    Raises:
      InputError: If they contradict the task.

    Example:
      >>> from dip_jax import build_config
      >>> check_settings(build_config("ct", overrides=["task.saturation=1"]))
      Traceback (most recent call last):
      dip_jax.errors.InputError: task.saturation expects a measurement of pixels, got task ct.
    """
    settings, code, likelihood = config.task, config.fit.code, config.fit.likelihood
    task = task_of(settings)
    if (code == "image") != task.code_from_guide:
        raise InputError(
            f"fit.code=image belongs to task {' or '.join(tasks_with_code_from_guide())}, whose guide image is "
            f"the code, got fit.code={code} and task {task.name}."
        )
    if settings.operator and "operator" not in task.settings:
        raise InputError(
            f"An operator belongs to {' or '.join(tasks_with_setting('operator'))}, got task {task.name}."
        )
    if "poisson" in likelihood + settings.noise and not task.counts_photons:
        raise InputError(
            f"{task.name} does not count photons: expected task.noise and fit.likelihood other than "
            f"poisson, got {settings.noise} and {likelihood}."
        )
    if likelihood == "tobit" and (task.measurement == "array" or _measures_coefficients(config)):
        raise InputError(
            "fit.likelihood=tobit expects a measurement of pixels, which were clipped to [0, 1], got "
            f"task {task.name}; use gaussian, or for a JPEG file --set task.jpeg=decoded."
        )
    if task.measurement != "array":
        return
    if config.fit.method == "fit" and config.stop.rule == "cross_validation":
        raise InputError(
            f"stop.rule=cross_validation expects a measurement of pixels, got task {task.name}; use another rule."
        )
    if settings.saturation is not None:
        raise InputError(f"task.saturation expects a measurement of pixels, got task {task.name}.")
    if settings.noise == "salt_and_pepper":
        raise InputError(
            f"task.noise=salt_and_pepper expects a measurement of pixels, got task {task.name}."
        )


def _measures_coefficients(config: Config) -> bool:
    """Whether the measurement may be the coefficients of a JPEG file."""
    return "jpeg" in task_of(config.task).settings and config.task.jpeg == "intervals"
