"""Runs of Weights & Biases, written by wandb, an optional dependency."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dip_jax.errors import InputError

_PROJECT = "dip_jax"  # unless WANDB_PROJECT names another one
_INIT_SECONDS = 30.0  # the fits wait for the server this long before logging ends


def require_wandb() -> None:
    """Checks that wandb is installed and can log in without a question.

    Raises:
      InputError: If it is not installed, or is neither logged in nor offline.
    """
    try:
        import wandb
    except ImportError:
        raise InputError(
            "run.log=wandb expects the package wandb, which is not installed; `pip install wandb` installs it."
        ) from None
    mode = wandb.setup(settings=wandb.Settings(silent=True)).settings.mode
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise InputError(
            "run.log=wandb expects a user who is logged in, got none; run `wandb login`, or set WANDB_MODE=offline."
        )


class WandbRun:
    """The run of one network; the networks of an output folder are a group."""

    def __init__(self, folder: Path, name: str, *, group: str, settings: dict[str, Any]):
        """Starts the run.

        Args:
          folder: Folder for the files of wandb; created.
          name: Name of the run.
          group: Name of the group.
          settings: The settings of the fit, to be shown and compared.

        Raises:
          wandb.Error: If the server does not answer.
        """
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            dir=folder,
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            group=group,
            config=settings,
            reinit="create_new",  # several networks are in progress
            settings=wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                x_disable_stats=True,
                init_timeout=_INIT_SECONDS,
            ),
        )

    def write(
        self, step: int, values: Mapping[str, float], images: Mapping[str, np.ndarray]
    ) -> None:
        """Adds numbers, and uint8 images `[H, W]` or `[H, W, 3]`, by name.

        Args:
          step: Number of steps made.
          values: The numbers.
          images: The images.
        """
        import wandb

        media = {name: wandb.Image(image) for name, image in images.items()}
        self._run.log({**values, **media}, step=step)

    def close(self) -> None:
        """Ends the run; waits until it is uploaded."""
        self._run.finish()
