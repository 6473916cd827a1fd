"""Parts of pages that are made from the source when the site is built.

A page names such a part in a comment, `<!-- generated: KIND WORD ... -->`, which the build replaces:

* `flags`: the flags of the command, from `dip_jax/cli/flags.py`.
* `settings SECTION`: the fields of a section, from `dip_jax/config.py`.
* `presets`, `comparisons`: those of `dip_jax/presets.py`.
* `api NAME ...`: the signature and the docstring of public names of `dip_jax`.
* `module NAME`: the same for each public name of a module of `dip_jax`.
* `file PATH`: a file of the repository, such as `CONTRIBUTING.md`.
* `glossary`: the table of terms of `CONTRIBUTING.md`.
"""

import dataclasses
import inspect
import os
import re
import textwrap
import types
from pathlib import Path
from typing import Any

from sphinx.ext.napoleon import Config, GoogleDocstring

import dip_jax
from dip_jax.cli.flags import GROUPS, Flag
from dip_jax.config import SECTIONS, TASKS
from dip_jax.fields import describe_field, meanings
from dip_jax.presets import COMPARISONS, PRESETS

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"<!-- generated: (\w+)((?: [\w.]+)*) -->")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")
# What a docstring has besides text: an example, code, and emphasis.
EXAMPLE = r"^ *>>>.*(?:\n.*\S.*)*"
CODE = r"`[^`]+`"
EMPHASIS = r"(?<![\w*])\*{1,2}(?=[^\s*])[^*\n]+(?<=\S)\*{1,2}(?![\w*])"
GOOGLE_STYLE = Config(napoleon_use_rtype=False)
# Files of the repository that are pages of the site.
PAGES_OF_FILES = {
    "CONTRIBUTING.md": "docs/development/contributing.md",
    "CHANGELOG.md": "docs/development/changelog.md",
    "README.md": "docs/index.md",
}


def insert(_app: Any, docname: str, source: list[str]) -> None:
    """Replaces the markers of a page; a handler of Sphinx's event `source-read`."""
    folder = (ROOT / "docs" / docname).parent
    text = LINK.sub(lambda link: move_link(link, folder, folder), source[0])
    source[0] = MARKER.sub(lambda found: KINDS[found[1]](*found[2].split()), text)


def move_link(link: re.Match, origin: Path, folder: Path) -> str:
    """A link from a file in `origin` as a page in `folder` has it; that to a folder is its text alone."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    path = Path(os.path.normpath(origin / target))
    name = os.path.relpath(path, ROOT)
    if path.is_dir():
        return text
    path = ROOT / PAGES_OF_FILES.get(name, name)
    return f"[{text}]({os.path.relpath(path, folder)}{anchor})"


def file(path: str) -> str:
    """The text of a file at the root of the repository, for a page in `development/`."""
    folder = ROOT / "docs/development"
    return LINK.sub(lambda link: move_link(link, ROOT, folder), (ROOT / path).read_text())


def glossary() -> str:
    """The table of terms."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return text.split("## Glossary", 1)[1].split("\n## ", 1)[0].strip()


def adapt_docstring(
    _app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    """Writes a docstring as reStructuredText; a handler of `autodoc-process-docstring`.

    Markdown's code becomes literals, and other marks are characters. The sections of Google style are read as those of
    a function: napoleon's own handler takes the text before a colon for the type of an attribute.
    """
    text = re.sub(
        r"^(References:\n)((?: .*\n?|\n)+)", list_references, "\n".join(lines), flags=re.MULTILINE
    )
    parts = re.split(f"({EXAMPLE}|{CODE}|{EMPHASIS})", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if part.startswith("`"):
            code = re.sub(r"\s+", " ", part)
            follows = parts[number + 1][:1]
            parts[number] = f"`{code}`" + (r"\ " if follows.isalnum() else "")
        elif number % 2 == 0:
            escaped = re.sub(r"(?<=[^\n ])\*|(?<=\S )\*|\|", r"\\\g<0>", part)
            parts[number] = re.sub(r"(?<=\w)_(?!\w)", r"\\_", escaped)
    lines[:] = GoogleDocstring("".join(parts), GOOGLE_STYLE, what="function").lines()


def list_references(section: re.Match) -> str:
    """The section of the references, each an item of a list."""
    entries = re.sub(r"\n   +(?=\S)", " ", section[2])
    return section[1] + re.sub(r"^  (?=\S)", "  * ", entries, flags=re.MULTILINE)


# The command


def flags() -> str:
    """The flags in the groups of `--help`, each group a definition list."""
    return "\n".join(
        f"## {group}\n\n" + "\n".join(map(flag_entry, entries)) for group, entries in GROUPS.items()
    )


def flag_entry(flag: Flag) -> str:
    """A flag as an entry of a definition list."""
    value = {"switch": "", "listing": f"[={flag.value}]"}.get(flag.kind, f"={flag.value}")
    names = [f"`--{flag.name}{value}`"] + ([f"`-{flag.letter}`"] if flag.letter else [])
    return f"{', '.join(names)}\n: {as_code(flag.meaning)}\n"


def as_code(text: str) -> str:
    """A text in which flags, fields and names with underscores are code."""
    return re.sub(
        r"(?<![`\w=])(--[a-z_]+|[a-z]+_[a-z_]+|[a-z]+\.[a-z_]+=\w+)(?![`\w])", r"`\1`", text
    )


# Settings


def settings(name: str) -> str:
    """A definition list of the fields of a section."""
    section = SECTIONS[name]
    texts = meanings(section)
    return "\n".join(
        f"`{name}.{field.name}`\n: {allowed(field)}; default {default(field)}\n\n"
        f"{textwrap.indent(texts[field.name], '  ')}\n"
        for field in dataclasses.fields(section)
    )


def allowed(field: dataclasses.Field) -> str:
    """The type and the range of a field in words, its choices as code."""
    text = describe_field(field)
    choices = re.search(r"(?<=one of )[\w, ]*\w", text)
    return (
        text
        if choices is None
        else text.replace(choices[0], re.sub(r"\w+", r"`\g<0>`", choices[0]))
    )


def default(field: dataclasses.Field) -> str:
    """The default of a field as `--set` takes it."""
    value = field.default
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if value == "":
        return "empty"
    if isinstance(value, bool) or value is None:
        value = str(value).lower()
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


# Presets


def presets() -> str:
    """A table of the presets of each task."""
    tables = []
    for task in TASKS:
        rows = [f"## {task}", "", "| preset | setting | source |", "|---|---|---|"]
        for name, preset in PRESETS.items():
            if preset.task == task:
                rows.append(f"| `{name}` | {preset.about} | {link(preset.source)} |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def link(source: str) -> str:
    """The source of a preset, with links from a page in `reference/`."""
    return re.sub(
        r"docs/([\w/-]+)\.md",
        lambda page: f"[{page[1].rpartition('/')[2].replace('_', ' ')}](../{page[1]}.md)",
        source,
    )


def comparisons() -> str:
    """A table of the comparisons."""
    rows = ["| comparison | settings |", "|---|---|"]
    for name, labels in COMPARISONS.items():
        rows.append(f"| `{name}` | {', '.join(map(str, labels))} |")
    return "\n".join(rows)


# Python


def api(*names: str) -> str:
    """Directives that document names of `dip_jax`."""
    return "```{eval-rst}\n" + "\n".join(directive("dip_jax", name) for name in names) + "\n```"


def module(name: str) -> str:
    """Directives that document the public names of a module which `dip_jax` itself does not have."""
    found = getattr(dip_jax, name)
    return (
        "```{eval-rst}\n"
        + "\n".join(directive(found.__name__, n) for n in members(found))
        + "\n```"
    )


def members(found: types.ModuleType) -> list[str]:
    """The public names of a module, without those that `dip_jax` has too."""
    own = getattr(found, "__all__", None) or [
        name
        for name, value in vars(found).items()
        if getattr(value, "__module__", None) == found.__name__ and not name.startswith("_")
    ]
    return [
        name
        for name in own
        if name not in dip_jax.__all__ and not inspect.ismodule(getattr(found, name))
    ]


def directive(parent: str, name: str) -> str:
    """The directive of autodoc for a name."""
    value = getattr(__import__(parent, fromlist=[name]), name)
    if inspect.isclass(value):
        return f".. autoclass:: {parent}.{name}\n   :members:\n"
    kind = "function" if callable(value) and inspect.isroutine(value) else "data"
    return f".. auto{kind}:: {parent}.{name}\n"


KINDS = {
    "flags": flags,
    "settings": settings,
    "presets": presets,
    "comparisons": comparisons,
    "api": api,
    "module": module,
    "file": file,
    "glossary": glossary,
}
