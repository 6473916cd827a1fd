"""The output folder of a run: created, checked for other runs, resumed."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dip_jax.base import InputError
from dip_jax.config import Config, from_json, to_json
from dip_jax.images.atomic import write_text

# What a run writes into its folder beside the pictures' own folders.
RUN_FILES = ("config.json", "summary.json", "summary.csv", "index.html", "contact-1.png")


def prepare_folder(
    folder: Path, names: Sequence[str], config: Config, *, overwrite: bool, resume: bool
) -> None:
    """Makes the output folder and writes the run's `config.json` into it.

    Args:
      folder: Where the run goes.
      names: The pictures, each of which gets a folder in it.
      config: Its settings.
      overwrite: Go over what another run left there.
      resume: Go on with an earlier run of the same settings.

    Raises:
      InputError: If it cannot be written, holds another run and neither was asked for, or holds a run
        of other settings and is to be resumed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The output folder {folder} cannot be written ({error.strerror}); choose another one with "
            "--output."
        ) from None
    path = folder / "config.json"
    is_taken = any((folder / name).exists() for name in (*RUN_FILES, *names))
    # Asked after that: another process may have begun in between.
    if path.exists() and resume:
        different = _difference(from_json(path.read_text()), config)
        if different:
            raise InputError(
                f"{folder} holds a run with {different}; to resume it, use its settings, otherwise "
                "choose another --output."
            )
    elif is_taken and not overwrite:
        raise InputError(
            f"The output folder {folder} holds another run, and nothing is overwritten unasked: choose "
            "another --output, --resume a run that was cut short, or --overwrite."
        )
    text = to_json(config)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def _difference(old: Config, new: Config) -> str:
    """The first field that differs, in words; empty if none."""
    before, after = json.loads(to_json(old)), json.loads(to_json(new))
    for section, fields in after.items():
        for field, value in fields.items():
            if section == "run" and field != "seed":
                continue  # these do not change what is computed
            if before[section][field] != value:
                return f"{section}.{field} = {before[section][field]!r}, not {value!r}"
    return ""
