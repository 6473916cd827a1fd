"""From files to cases: which pictures there are, what belongs to each, and reading one when its turn comes."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dip_jax.base import Case, picture_key
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.images import MAX_PIXELS, Picture, list_pictures, peek_shape, read_mask, read_picture
from dip_jax.tasks import build_case, simulate_case


class Job(NamedTuple):
    """One picture to restore: the case, and the form in which it is written."""

    case: Case
    like: Picture


class Entry(NamedTuple):
    """A picture of a run that is not read yet."""

    name: str
    load: Callable[[], Job]
    """Reads it; raises `InputError` where that cannot be done."""
    digest: Callable[[], str]
    """A checksum of all its files, which tells whether they have changed."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels as its header says, or None."""


def list_entries(
    config: Config,
    *,
    inputs: Sequence[str | Path] = (),
    references: Sequence[str | Path] = (),
    masks: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
) -> list[Entry]:
    """Finds the pictures of a run; none is read but its header.

    Args:
      config: The settings; a simulation's random numbers follow from its seed.
      inputs: Damaged pictures: files, globs, folders. Without any, the damage is simulated on the
        references.
      references: Clean pictures; with inputs they are matched by file stem.
      masks: For inpainting: one for all, or matched by file stem.
      max_pixels: Larger pictures are refused before they are decoded.

    Raises:
      InputError: If there is nothing to do, a path matches nothing, or two files for one picture.
    """
    if not inputs and not references:
        raise InputError(
            "Nothing to restore: give a picture (--input), or a clean one (--reference)."
        )
    clean = _by_stem(references) if inputs else {}
    known = _by_stem(masks)
    entries: list[Entry] = []
    for name, path in unique_names(list_pictures(list(inputs or references))).items():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!a}: its name is not UTF-8; rename it.") from None
        mask = next(iter(known.values())) if len(known) == 1 else known.get(path.stem)
        files = Files(path, clean.get(path.stem), mask, bool(inputs), bool(clean), len(known))
        entries.append(
            Entry(
                name,
                functools.partial(_load, config, name, files, max_pixels),
                functools.partial(_digest, files),
                peek_shape(path),
            )
        )
    return entries


class Files(NamedTuple):
    """What belongs to one picture."""

    picture: Path
    reference: Path | None
    mask: Path | None
    is_damaged: bool
    """Whether the picture is; otherwise the damage is simulated on it."""
    wants_reference: bool
    num_masks: int


def _by_stem(paths: Sequence[str | Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_pictures(list(paths)) if paths else []:
        if path.stem in found:
            raise InputError(
                f"{found[path.stem]} and {path} have the same stem, by which they are matched; leave one "
                "out, or rename it and its picture."
            )
        found[path.stem] = path
    return found


def unique_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Names by which pictures are told apart: their stems.

    Where several have one stem, their folders from where they part are put before it (`a/photo`,
    `b/photo`), and in one folder their suffixes (`png/photo`, `jpg/photo`). The last part is always the
    stem: a picture's random numbers follow from it, and do not depend on who else is there.

    Raises:
      InputError: If that does not tell all of them apart.
    """
    alike: dict[str, list[Path]] = {}
    for path in paths:
        alike.setdefault(path.stem, []).append(path)
    names = {}
    for path in paths:
        others = alike[path.stem]
        if len(others) > 1:
            folders = [os.path.dirname(os.path.abspath(other)) for other in others]
            own = os.path.dirname(os.path.abspath(path))
            part = Path(os.path.relpath(own, os.path.commonpath(folders)))
            part = part / path.suffix[1:] if folders.count(own) > 1 else part
            names[(part / path.stem).as_posix()] = path
        else:
            names[path.stem] = path
    if len(names) < len(paths):
        raise InputError(
            f"The pictures called {next(s for s, p in alike.items() if len(p) > 2)!r} cannot be told "
            "apart by their folders and suffixes; rename one, or restore them in runs of their own."
        )
    return names


def _digest(files: Files) -> str:
    whole = hashlib.sha256()
    for path in (files.picture, files.reference, files.mask):
        if path is not None:
            stat = path.stat()
            whole.update(_file_digest(path, stat.st_mtime_ns, stat.st_size))
    return whole.hexdigest()


@functools.lru_cache(maxsize=64)  # one mask may serve thousands of pictures
def _file_digest(path: Path, mtime_ns: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _load(config: Config, name: str, files: Files, max_pixels: int) -> Job:
    path = files.picture
    picture = read_picture(path, max_pixels=max_pixels)
    notes = picture.notes
    mask = None
    if files.num_masks:
        if files.mask is None:
            raise InputError(
                f"{path}: none of the {files.num_masks} masks has its stem {path.stem!r}."
            )
        mask, mask_notes = read_mask(files.mask, picture.pixels.shape[:2], max_pixels=max_pixels)
        notes += mask_notes
    if files.is_damaged:
        case = build_case(config.task, name, picture.pixels, mask=mask)
        if files.wants_reference:
            case = case._replace(reference=_load_reference(files, picture, max_pixels))
    else:
        # Its own branch of the picture's key: the network must not start from the noise's numbers.
        key = jax.random.fold_in(picture_key(config.run.seed, name), 1)
        case = simulate_case(key, config.task, name, picture.pixels, mask=mask)
    return Job(case._replace(notes=notes), picture)


def _load_reference(files: Files, picture: Picture, max_pixels: int) -> np.ndarray:
    path = files.reference
    if path is None:
        raise InputError(
            f"{files.picture}: no reference has its stem {files.picture.stem!r}; rename it, or leave it "
            "out."
        )
    clean = read_picture(path, max_pixels=max_pixels)
    reference = clean.pixels
    if picture.dtype.kind == "f" and clean.dtype.kind == "f":
        # Floats beyond [0, 1] are mapped by their own range, which noise widens: use the picture's.
        stored = reference * (clean.high - clean.low) + clean.low
        reference = (stored - picture.low) / ((picture.high - picture.low) or 1.0)
        reference = reference.astype(np.float32)
    if reference.shape != picture.pixels.shape:
        raise InputError(
            f"{path}: a reference must have its picture's size and channels {picture.pixels.shape}, came "
            f"{reference.shape}."
        )
    return reference
