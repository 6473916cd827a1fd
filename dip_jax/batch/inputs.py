"""From files to cases: which pictures there are, what belongs to each, and reading one when its turn comes."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dip_jax.base import Case
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.images.decode import SUFFIXES
from dip_jax.images.jpeg_file import JpegFile, read_jpeg
from dip_jax.images.read import (
    MAX_PIXELS,
    MIN_SIDE,
    StoredImage,
    list_images,
    peek_shape,
    read_image,
    read_mask,
)
from dip_jax.images.side_inputs import ARRAY_SUFFIX, read_array, read_guide, read_kernel
from dip_jax.images.write import stored_like
from dip_jax.keys import image_key, simulation_key
from dip_jax.operators.jpeg import MIN_MATCHING_FRACTION, matches
from dip_jax.tasks.cases import build_case
from dip_jax.tasks.simulate import simulate_case


class LoadedInput(NamedTuple):
    """One picture to restore: the case, and the form in which it is written."""

    case: Case
    like: StoredImage


class LazyInput(NamedTuple):
    """A picture of a run that is not read yet."""

    name: str
    load: Callable[[], LoadedInput]
    """Reads it; raises `InputError` where that cannot be done."""
    digest: Callable[[], str]
    """A checksum of all its files, which tells whether they have changed."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels as its header says, or None."""


def list_inputs(
    config: Config,
    *,
    inputs: Sequence[str | Path] = (),
    references: Sequence[str | Path] = (),
    masks: Sequence[str | Path] = (),
    guides: Sequence[str | Path] = (),
    kernels: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
) -> list[LazyInput]:
    """Finds the pictures of a run; none is read but its header.

    Args:
      config: The settings; a simulation's random numbers follow from its seed.
      inputs: Damaged pictures (or what else was measured, as .npy): files, globs, folders. Without any, the
        damage is simulated on the references.
      references: Clean pictures; with inputs they are matched by file stem.
      masks: For inpainting and compressed sensing: one for all, or matched by file stem.
      guides: For flash, likewise.
      kernels: For deblurring, likewise.
      max_pixels: Larger pictures are refused before they are decoded.

    Raises:
      InputError: If there is nothing to do, a path matches nothing, or two files for one picture.
    """
    if not inputs and not references:
        raise InputError(
            "Nothing to restore: give a picture (--input), or a clean one (--reference)."
        )
    suffixes: tuple[str, ...] = SUFFIXES
    if inputs and config.task.name in ARRAY_TASKS:
        suffixes = (*SUFFIXES, ARRAY_SUFFIX)
    clean = _by_stem(references) if inputs else {}
    beside = {"mask": _by_stem(masks), "guide": _by_stem(guides), "kernel": _by_stem(kernels)}
    entries: list[LazyInput] = []
    pictures = list_images(list(inputs or references), suffixes=suffixes)
    for name, path in unique_names(pictures).items():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!a}: its name is not UTF-8; rename it.") from None
        aids: dict[str, Path | None] = {}
        for aid, known in beside.items():
            if known:
                aids[aid] = next(iter(known.values())) if len(known) == 1 else known.get(path.stem)
        operator = config.task.operator.rpartition(":")[0]
        files = Files(
            path,
            clean.get(path.stem),
            aids,
            bool(inputs),
            bool(clean),
            Path(operator) if operator else None,
        )
        entries.append(
            LazyInput(
                name,
                functools.partial(_load, config, name, files, max_pixels),
                functools.partial(_digest, files),
                _peek_array(path) if path.suffix.lower() == ARRAY_SUFFIX else peek_shape(path),
            )
        )
    return entries


# Tasks whose measurement need not be a picture.
ARRAY_TASKS = ("ct", "compressed_sensing", "custom")


class Files(NamedTuple):
    """What belongs to one picture."""

    picture: Path
    reference: Path | None
    aids: dict[str, Path | None]
    """Its mask, guide and kernel, of those that were given at all; None where none has its stem."""
    is_damaged: bool
    """Whether the picture is; otherwise the damage is simulated on it."""
    wants_reference: bool
    operator: Path | None = None
    """custom: the file with its operator."""


def _peek_array(path: Path) -> tuple[int, int, int] | None:
    """The shape of an array file as three numbers, by which alike ones are found; None if it says nothing."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except Exception:  # the reading, when its turn comes, says why
        return None
    return (*shape, 1, 1, 1)[0], (*shape, 1, 1)[1], int(np.prod(shape[2:]))


def _by_stem(paths: Sequence[str | Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    suffixes = (*SUFFIXES, ARRAY_SUFFIX)
    for path in list_images(list(paths), suffixes=suffixes) if paths else []:
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
    for path in (files.picture, files.reference, *files.aids.values(), files.operator):
        if path is not None:
            stat = path.stat()
            whole.update(_file_digest(path, stat.st_mtime_ns, stat.st_size))
    return whole.hexdigest()


@functools.lru_cache(maxsize=64)  # one mask may serve thousands of pictures
def _file_digest(path: Path, mtime_ns: int, size: int) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _load(config: Config, name: str, files: Files, max_pixels: int) -> LoadedInput:
    path, task = files.picture, config.task
    if path.suffix.lower() == ARRAY_SUFFIX:
        if task.name not in ARRAY_TASKS or not files.is_damaged:
            raise InputError(f"{path}: {task.name} takes a picture here, not an array.")
        measured, picture = read_array(path), None
        notes: tuple[str, ...] = ()
    else:
        if task.name in ("ct", "compressed_sensing") and files.is_damaged:
            raise InputError(
                f"{path}: {task.name} takes what was measured as .npy; a picture to simulate from is a "
                "--reference."
            )
        # A small picture may be smaller than what is made of it.
        enlarged = task.factor if task.name == "super_resolve" and files.is_damaged else 1
        picture = read_image(path, max_pixels=max_pixels, min_side=-(-MIN_SIDE // enlarged))
        measured, notes = picture.pixels, picture.notes
    aids, aid_notes = _load_aids(files, measured, max_pixels)
    notes += aid_notes
    if files.is_damaged:
        if task.name == "compressed_sensing" and "mask" not in aids:
            aids["mask"] = np.abs(measured).reshape(*measured.shape[:2], -1).any(axis=-1)
            notes += (
                f"{aids['mask'].mean():.1%} of the frequencies are not zero: those were measured",
            )
        if task.name == "dejpeg" and task.jpeg == "intervals":
            aids["jpeg"], why_not = _load_jpeg(path, measured)
            notes += (why_not,) if why_not else ()
        reference = None
        if files.wants_reference:
            reference = _load_reference(files, picture, max_pixels)
        case = _with_reference(build_case(task, name, measured, **aids), reference, files, config)
    else:
        # Its own branch of the picture's key: the network must not start from the noise's numbers.
        key = simulation_key(image_key(config.run.seed, name))
        case = simulate_case(key, task, name, measured, **aids)
    if picture is None:
        # No picture came in, so there is no depth to keep: 16 bits lose nothing that matters.
        like = StoredImage(
            np.zeros(case.shape, np.float32), None, np.dtype(np.uint16), 0.0, 65535.0
        )
    else:
        like = stored_like(picture, case.shape)
    return LoadedInput(case._replace(notes=notes + case.notes), like)


def _load_aids(
    files: Files, measured: np.ndarray, max_pixels: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads what belongs to a measurement, by the name of the aid; and notes."""
    aids: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for aid, path in files.aids.items():
        if path is None:
            raise InputError(
                f"{files.picture}: none of the {aid}s has its stem {files.picture.stem!r}."
            )
        if aid == "kernel":
            aids[aid], more = read_kernel(path, max_pixels=max_pixels)
        elif aid == "guide":
            aids[aid], more = read_guide(path, measured.shape[:2], max_pixels=max_pixels)
        elif path.suffix.lower() == ARRAY_SUFFIX:
            aids[aid], more = np.abs(read_array(path)), ()
        else:
            aids[aid], more = read_mask(path, measured.shape[:2], max_pixels=max_pixels)
        notes += more
    return aids, notes


def _load_jpeg(path: Path, pixels: np.ndarray) -> tuple[JpegFile | None, str]:
    """The coefficients of a JPEG file, or None and why its decoded picture is fitted instead."""
    instead = "its pixels are fitted instead, as by --preset=dejpeg_2018"
    with path.open("rb") as opened:
        is_jpeg = opened.read(2) == b"\xff\xd8"
    if not is_jpeg:
        return None, f"no JPEG file, so nothing tells its quantization; {instead}"
    try:
        file = read_jpeg(path)
    except InputError as error:
        return None, f"{error} ({instead})"
    fraction = matches(file, pixels)
    if fraction < MIN_MATCHING_FRACTION:
        return None, (
            f"only {fraction:.1%} of the decoded picture agrees with the file's own coefficients; {instead}"
        )
    return file, ""


def _with_reference(case: Case, reference: np.ndarray | None, files: Files, config: Config) -> Case:
    if reference is None:
        return case
    if config.task.name == "super_resolve":
        # A small picture of a side that the factor did not divide was rounded up.
        surplus = [m - n for m, n in zip(case.shape[:2], reference.shape[:2], strict=True)]
        if all(0 <= n < config.task.factor for n in surplus) and max(surplus) > 0:
            small = np.asarray(case.problem.measurement)
            case = build_case(config.task, case.name, small, shape=reference.shape)
    if reference.shape != case.shape:
        raise InputError(
            f"{files.reference}: a reference must have the image's size and channels {case.shape}, came "
            f"{reference.shape}."
        )
    return case._replace(reference=reference)


def _load_reference(files: Files, picture: StoredImage | None, max_pixels: int) -> np.ndarray:
    path = files.reference
    if path is None:
        raise InputError(
            f"{files.picture}: no reference has its stem {files.picture.stem!r}; rename it, or leave it "
            "out."
        )
    clean = read_image(path, max_pixels=max_pixels)
    reference = clean.pixels
    if picture is not None and picture.dtype.kind == "f" and clean.dtype.kind == "f":
        # Floats beyond [0, 1] are mapped by their own range, which noise widens: use the picture's.
        stored = reference * (clean.high - clean.low) + clean.low
        reference = (stored - picture.low) / ((picture.high - picture.low) or 1.0)
        reference = reference.astype(np.float32)
    return reference
