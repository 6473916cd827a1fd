"""The help text of the command, within 80 columns."""

import textwrap

from dip_jax.cli.flags import GROUPS, Flag

_WIDTH, _INDENT = 79, 24
_EXAMPLES = {
    "dip-jax": "a demonstration",
    "dip-jax photo.png": "denoise; see out/photo/",
    "dip-jax photos/ --output=restored": "a folder",
    "dip-jax *.png --flat --output=clean": "clean/NAME.png",
    "dip-jax torn.png --task=inpaint --mask=mask.png": "missing = black",
    "dip-jax small.png --task=super_resolve --factor=2": "enlarge",
    "dip-jax photo.png --method=sgld": "with intervals",
    "dip-jax photos/ --plan": "forecast the time",
}


def help_text() -> str:
    """Returns the help text: usage, examples, and the flags in groups."""
    width = max(map(len, _EXAMPLES))
    parts = [
        "usage: dip-jax [IMAGE ...] [--FLAG=VALUE ...]\n\n"
        + textwrap.fill(
            "Restores degraded images without training data: a randomly initialized network is fitted to each image, "
            "and its structure is the prior (Deep Image Prior).",
            _WIDTH,
        ),
        "Examples:\n"
        + "\n".join(f"  {command:{width}}  {about}" for command, about in _EXAMPLES.items()),
    ]
    image = Flag("", "", "Degraded images: files, globs or folders. None: a demonstration.")
    for title, flags in GROUPS.items():
        lines = [_describe("IMAGE ...", image)] if title == "Images" else []
        lines += [_describe(_usage(flag), flag) for flag in flags]
        parts.append("\n".join([f"{title}:", *lines]))
    parts.append(
        "Exit status: 0 all images are restored, 1 some failed, 2 the command has a\n"
        "mistake, 75 interrupted and saved (continue with --resume), 130 interrupted."
    )
    return "\n\n".join(parts) + "\n"


def _usage(flag: Flag) -> str:
    if flag.kind == "listing":
        return f"--{flag.name}[={flag.value}]"
    letter = f"-{flag.letter}, " if flag.letter else ""
    return f"{letter}--{flag.name}{'=' if flag.value else ''}{flag.value}"


def _describe(usage: str, flag: Flag) -> str:
    lines = textwrap.wrap(flag.meaning, _WIDTH - _INDENT, break_on_hyphens=False)
    head = f"  {usage}"
    if len(head) + 2 > _INDENT:  # the meaning begins on the next line
        return "\n".join([head, *(" " * _INDENT + line for line in lines)])
    first, *others = lines
    return "\n".join([f"{head:{_INDENT}}{first}", *(" " * _INDENT + line for line in others)])
