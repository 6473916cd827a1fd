"""The page `index.html` of a run or of a comparison: one file that needs no network.

Its parts are the files of `page/`. The summaries are embedded as JSON, and the script shows a part of them at a time.
"""

import collections
import datetime
import functools
import importlib.resources
import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from dip_jax.config import from_json
from dip_jax.errors import InputError
from dip_jax.report.manifest import Manifest
from dip_jax.report.run_settings import RunSettings, describe_settings
from dip_jax.report.summary import Summary
from dip_jax.report.summary_table import summary_keys
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath, exists, read_bytes

PAGE = "index.html"
_LEFT_OUT = ("versions", "digest")
_MAX_LINKS = 200  # folders that a browser without JavaScript gets links to
_THREADS = 16  # that read records; those of a bucket take a request each


class _Image(NamedTuple):
    """What the page knows of an image besides its summary."""

    path: str
    """Its folder, relative to the page."""
    files: tuple[str, ...]
    """Its files, relative to its folder."""
    settings: RunSettings | None


def write_page(
    output: AnyPath,
    summaries: Sequence[Summary],
    *,
    message: str = "",
    folders: Mapping[str, str] | None = None,
) -> None:
    """Writes the page of a run.

    Args:
      output: The output folder of the run, with the folder of each image.
      summaries: The summary of each image.
      message: A sentence for the head of the page.
      folders: Of a comparison, the folder of each variant in `output`, by its label.

    Raises:
      OSError: If the page cannot be written.
    """
    manifest = Manifest(output)
    path = manifest.path(PAGE)
    with ThreadPoolExecutor(_THREADS) as threads:
        settings_of = functools.cache(_parse_settings)
        images = list(
            threads.map(lambda s: _read(output, s, folders or {}, settings_of), summaries)
        )
    files = [file for file in manifest if file.endswith(".png") or exists(output / file)]
    write_text(path, _render(summaries, images, files, message))


def _read(
    output: AnyPath,
    summary: Summary,
    folders: Mapping[str, str],
    settings_of: Callable[[bytes], RunSettings | None],
) -> _Image:
    name, run = summary["name"], output
    path = name
    if "variant" in summary:
        run, path = output / folders[summary["variant"]], f"{folders[summary['variant']]}/{name}"
    files = tuple(file.removeprefix(f"{name}/") for file in Manifest(run, name))
    if summary["error"] is not None:  # the writing of a file may have failed
        files = tuple(file for file in files if exists(run / name / file))
    settings = None
    if "config.json" in files:
        try:
            settings = settings_of(read_bytes(run / name / "config.json"))
        except OSError:  # removed by the user; the page is still of use
            files = tuple(file for file in files if file != "config.json")
    return _Image(path, tuple(sorted(files, key=_file_order)), settings)


def _file_order(file: str) -> tuple[bool, bool, str]:
    """The restored image first, samples last."""
    return "/" in file, not file.startswith("restored."), file


def _parse_settings(config: bytes) -> RunSettings | None:
    try:
        return describe_settings(from_json(config.decode(errors="replace")))
    except InputError:  # of another version
        return None


def _render(
    summaries: Sequence[Summary], images: Sequence[_Image], files: Sequence[str], message: str
) -> str:
    counts = collections.Counter(summary["status"].value for summary in summaries)
    number = len({summary["name"] for summary in summaries})
    title = f"{number} image{'s' * (number != 1)}"
    num_settings = len({summary.get("variant") for summary in summaries})
    if num_settings > 1:
        title += f", {num_settings} settings"
    now = datetime.datetime.now().astimezone()
    listed = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    sheets = sorted(
        (file for file in files if file.endswith(".png")), key=lambda file: (len(file), file)
    )
    paths = list(dict.fromkeys(image.path for image in images))
    return _template().render(
        title=title,
        subtitle=f"{listed}; {now:%Y-%m-%d %H:%M}",
        sentences=[message] if message else [],
        about=_about(summaries, images),
        files=[file for file in files if file != PAGE and not file.endswith(".png")],
        sheets=sheets,
        folders=[(path, quote(path)) for path in paths[:_MAX_LINKS]],
        more=len(paths) > _MAX_LINKS,
        css=Markup(_part("page.css")),
        script=Markup(_part("page.js")),
        data=Markup(to_embedded_json(_data(summaries, images))),
    )


def _about(summaries: Sequence[Summary], images: Sequence[_Image]) -> list[tuple[str, str]]:
    """What holds for the whole run, as terms and descriptions."""
    found = []
    settings = {image.settings for image in images if image.settings is not None}
    if len(settings) == 1:
        (common,) = settings
        found += [("settings", str(common)), ("command", common.command)]
    elif settings:
        found.append(("settings", "several, see each image"))
    found.append(("device", ", ".join(sorted({summary["device"] for summary in summaries}))))
    versions = {
        ", ".join(f"{name} {version}" for name, version in summary["versions"].items()): None
        for summary in summaries
    }
    found.append(("versions", "; ".join(versions)))
    seconds = sum(summary["seconds"] or 0 for summary in summaries)
    found.append(("time of all images", str(datetime.timedelta(seconds=round(seconds)))))
    return found


def _data(summaries: Sequence[Summary], images: Sequence[_Image]) -> dict[str, Any]:
    """The data of the script: one row of values for each image, and once what many of them share."""
    files = {names: i for i, names in enumerate(dict.fromkeys(image.files for image in images))}
    settings = {
        found: i for i, found in enumerate(dict.fromkeys(image.settings for image in images))
    }
    rows: list[dict[str, Any]] = [
        {
            **{key: _shortened(value) for key, value in summary.items() if key not in _LEFT_OUT},
            "path": image.path,
            "files": files[image.files],
            "settings": settings[image.settings],
        }
        for summary, image in zip(summaries, images, strict=True)
    ]
    columns = [
        key
        for key in (*summary_keys(), "path", "files", "settings")
        if any(row.get(key) not in (None, [], {}) for row in rows)
    ]
    first = rows[0] if rows else {}
    common = {
        key: first.get(key) for key in columns if all(r.get(key) == first.get(key) for r in rows)
    }
    columns = [key for key in columns if key not in common]
    return {
        "common": common,
        "columns": columns,
        "rows": [[row.get(key) for key in columns] for row in rows],
        "files": list(files),
        "settings": [found and found._asdict() for found in settings],
    }


def _shortened(value: Any) -> Any:
    """A value with six digits, which halve the size of the page."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    return value


def to_embedded_json(value: object) -> str:
    r"""JSON that is safe inside of a `script` element: no name of an image can end the element.

    Example:
      >>> to_embedded_json({"name": "</script>"})
      '{"name":"\\u003c/script>"}'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@functools.cache
def _template() -> jinja2.Template:
    return jinja2.Template(_part("template.html"), autoescape=True)


def _part(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("page", name).read_text("utf-8")
