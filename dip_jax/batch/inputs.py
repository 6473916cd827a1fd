"""The images of a run: finds them, names them, and matches the other files to them."""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import NamedTuple

from dip_jax.batch.load import ImageFiles, LoadedInput, load_input, load_target
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.images.decode import stack_pages
from dip_jax.images.find import list_images
from dip_jax.images.read import MAX_PIXELS, peek_shape
from dip_jax.report.manifest import RecordedFiles, is_image_file, is_run_file
from dip_jax.storage.paths import AnyPath, absolute, to_path
from dip_jax.tasks.registry import task_of

_NUM_PEEKING = 16  # headers that are read at the same time: a remote one takes a request


class InputFiles(NamedTuple):
    """The files of a run; each path is a file, a glob or a folder."""

    inputs: Sequence[str | AnyPath] = ()
    """Degraded images, or other measurements as .npy. If empty, the degradation of the references is simulated."""
    references: Sequence[str | AnyPath] = ()
    """Clean images; with inputs, they are matched to them by file stem."""
    masks: Sequence[str | AnyPath] = ()
    """Masks of inpainting (white = known) and compressed sensing: one for all images, or matched by stem."""
    guides: Sequence[str | AnyPath] = ()
    """Flash images: one for all images, or matched by stem."""
    kernels: Sequence[str | AnyPath] = ()
    """Blur kernels: one for all images, or matched by stem."""
    max_pixels: int = MAX_PIXELS
    """Pixels of the largest accepted image; a larger one is refused before it is decoded."""
    recursive: bool = False
    """A folder of `inputs` or `references` also means the images in its subfolders."""


class Stack(NamedTuple):
    """A TIFF file whose pages are restored one by one and joined again."""

    name: str
    """The name of the file, which is also its folder in the output."""
    path: AnyPath
    """The file."""
    num_pages: int
    """Number of its pages that are restored."""

    def page_names(self) -> list[str]:
        """The names of its pages as images of the run, e.g. `cells/page-0001`."""
        return [f"{self.name}/page-{page + 1:04d}" for page in range(self.num_pages)]


class LazyInput(NamedTuple):
    """An image of a run before it is read."""

    name: str
    """The name of the image, which is also its folder in the output."""
    load: Callable[[], LoadedInput]
    """Reads the image; raises `InputError` if this is impossible."""
    digest: Callable[[], str]
    """Returns a checksum of all files of the image, which shows whether they changed."""
    shape: tuple[int, int, int] | None = None
    """Height, width and channels from the header of the file; None if it has no such header."""
    stack: Stack | None = None
    """The file of several pages that the image belongs to; None for a file of its own."""


def list_inputs(config: Config, files: InputFiles) -> list[LazyInput]:
    """Lists the images of a run. Only their headers are read.

    Args:
      config: The settings. The random numbers of a simulation follow from `run.seed`.
      files: The files of the run.

    Returns:
      One input per image, in the order of the paths; one per page of a TIFF file whose pages have the same shape
      and type, unless `task.page` chooses one.

    Raises:
      InputError: If there is no image, or one for a task that takes none, a path matches nothing, or two files have the
        same stem.
    """
    make_target = task_of(config.task).target
    if make_target is not None:
        _require_no_files(config, files)
        name, load = make_target(config.task).name, functools.partial(load_target, config)
        return [LazyInput(name, load, lambda: "")]
    if not files.inputs and not files.references:
        raise InputError(
            "Nothing to restore: add a degraded image (--input) or a clean image (--reference)."
        )
    is_degraded = bool(files.inputs)
    paths = list_images(
        list(files.inputs or files.references),
        exclude=RecordedFiles(),
        recursive=files.recursive,
    )
    references = _by_stem(files.references, recursive=files.recursive) if is_degraded else {}
    side_inputs = {
        "mask": _by_stem(files.masks),
        "guide": _by_stem(files.guides),
        "kernel": _by_stem(files.kernels),
    }
    operator = _operator_file(config)
    page = None if config.task.page is None else config.task.page - 1
    names = unique_names(paths)
    with ThreadPoolExecutor(_NUM_PEEKING) as executor:
        headers = list(executor.map(functools.partial(_peek, page=page), names.values()))
    inputs: list[LazyInput] = []
    for (name, path), (shape, pages) in zip(names.items(), headers, strict=True):
        _require_utf8(name, path)
        image_files = ImageFiles(
            path,
            references.get(path.stem),
            {kind: _match(path, known) for kind, known in side_inputs.items() if known},
            is_degraded,
            needs_reference=bool(references),
            operator=operator,
            page=page,
        )
        load = functools.partial(load_input, config, max_pixels=files.max_pixels)
        digest = image_files.digest
        stack = Stack(name, path, len(pages))
        if stack.num_pages <= 1:  # `load` reports a file without a page
            inputs.append(
                LazyInput(name, functools.partial(load, name, image_files), digest, shape)
            )
            continue
        for index, page_name in zip(pages, stack.page_names(), strict=True):
            load_page = functools.partial(load, page_name, image_files._replace(page=index))
            inputs.append(LazyInput(page_name, load_page, digest, shape, stack))
    return inputs


def _require_no_files(config: Config, files: InputFiles) -> None:
    if any(files._replace(max_pixels=0)):
        raise InputError(f"{config.task.name} takes no files; leave out the images.")


def _operator_file(config: Config) -> Path | None:
    """The file of the operator, if there is one."""
    text = config.task.operator.rpartition(":")[0]
    path = to_path(text) if text else None
    if path is not None and not isinstance(path, Path):
        raise InputError(
            f"{path}: expected a local file of the operator; copy it to this computer."
        )
    return path


def _peek(path: AnyPath, page: int | None) -> tuple[tuple[int, int, int] | None, tuple[int, ...]]:
    """The shape from the header of a file, and the pages to restore."""
    return peek_shape(path, page=page), stack_pages(path) if page is None else (page,)


def unique_names(paths: Sequence[AnyPath]) -> dict[str, AnyPath]:
    """Names images by their stems, which are made unique.

    Images of equal stem also get the folders in which their paths differ (`a/photo`, `b/photo`), and
    within one folder their suffixes (`png/photo`, `jpg/photo`). Stems that differ only in case are numbered
    (`case-1/Photo`, `case-2/photo`), because some file systems do not distinguish them. A name that a run needs for
    a file of its own gets the folder `images` (`images/index.html`). The last part is always the stem: the random
    numbers of an image follow from it, so they do not depend on the other images.

    Args:
      paths: The files of the images.

    Returns:
      The path of each image by its name, in the order of `paths`.

    Raises:
      InputError: If folders and suffixes do not make the names unique.

    Example:
      >>> from pathlib import Path
      >>> list(unique_names([Path("a/photo.png"), Path("b/photo.png"), Path("b/cup.png")]))
      ['a/photo', 'b/photo', 'cup']
    """
    by_stem: dict[str, list[AnyPath]] = {}
    for path in paths:
        by_stem.setdefault(path.stem.casefold(), []).append(path)
    names = {_avoid_run_files(_name(path, by_stem[path.stem.casefold()])): path for path in paths}
    if len({name.casefold() for name in names}) < len(paths):
        stem = next(group[0].stem for group in by_stem.values() if len(group) > 1)
        raise InputError(
            f"The images with the stem {stem!r} cannot be told apart by their folders and suffixes; "
            "rename one, or restore them in separate runs."
        )
    return names


def _name(path: AnyPath, namesakes: Sequence[AnyPath]) -> str:
    """The name of an image among those whose stems differ at most in case."""
    if len(namesakes) == 1:
        return path.stem
    folders = [absolute(namesake.parent) for namesake in namesakes]
    folder = absolute(path.parent)
    prefix = PurePath(os.path.relpath(folder, os.path.commonpath(folders)))
    neighbors = [p for p, f in zip(namesakes, folders, strict=True) if f == folder]
    if len({p.suffix.casefold() for p in neighbors}) > 1:
        prefix /= path.suffix[1:]
    same = sorted(p.name for p in neighbors if p.suffix.casefold() == path.suffix.casefold())
    if len(same) > 1:
        prefix /= f"case-{same.index(path.name) + 1}"
    return (prefix / path.stem).as_posix()


def _avoid_run_files(name: str) -> str:
    """Puts an image into the folder `images` if a part of its name may be a file of a run or of another image."""
    first, *others = name.split("/")
    is_taken = is_run_file(first) or any(is_image_file(part) for part in others)
    return f"images/{name}" if is_taken else name


def _by_stem(paths: Sequence[str | AnyPath], *, recursive: bool = False) -> dict[str, AnyPath]:
    if not paths:
        return {}
    by_stem: dict[str, AnyPath] = {}
    for path in list_images(list(paths), recursive=recursive):
        if path.stem in by_stem:
            raise InputError(
                f"{by_stem[path.stem]} and {path} have the same stem, by which files are matched to "
                "images; leave one out, or rename it together with its image."
            )
        by_stem[path.stem] = path
    return by_stem


def _match(path: AnyPath, by_stem: dict[str, AnyPath]) -> AnyPath | None:
    """A single file belongs to all images."""
    return next(iter(by_stem.values())) if len(by_stem) == 1 else by_stem.get(path.stem)


def _require_utf8(name: str, path: AnyPath) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{str(path)!a}: expected a file name in UTF-8; rename the file, or set PYTHONUTF8=1 if it looks "
            "right elsewhere."
        ) from None
