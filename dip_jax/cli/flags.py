"""The flags of the command, in the groups of its help text."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from absl import flags

from dip_jax.config import TASKS
from dip_jax.errors import InputError
from dip_jax.fields import shorten
from dip_jax.presets import COMPARISONS


class Flag(NamedTuple):
    """A flag of the command."""

    name: str
    """The name, without dashes."""
    value: str
    """The placeholder of its value in the help text; empty for a switch."""
    meaning: str
    """Sentences with the meaning, the unit and the default."""
    kind: Literal["text", "texts", "integer", "number", "switch", "listing"] = "text"
    """Type of the value. `texts` can be repeated; `listing` is a switch that also takes a value."""
    default: Any = None
    """Value of a flag that is not given."""
    letter: str | None = None
    """A short name of one letter."""


GROUPS: dict[str, tuple[Flag, ...]] = {
    "Images": (
        Flag("input", "FILE", "The same as IMAGE; repeatable.", "texts"),
        Flag(
            "reference",
            "FILE",
            "Clean images, matched to the degraded ones by file stem, to measure the result against. Without degraded "
            "images, they are degraded first. Repeatable.",
            "texts",
        ),
        Flag("recursive", "", "Also restore the images in the subfolders of a folder.", "switch"),
        Flag(
            "mask",
            "FILE",
            "inpaint: white = known. One for all images, or matched by stem.",
            "texts",
        ),
        Flag(
            "guide",
            "FILE",
            "flash: the flash image. One for all images, or matched by stem.",
            "texts",
        ),
        Flag(
            "kernel",
            "FILE",
            "deblur: the blur kernel, an image or .npy. One for all images, or matched by stem.",
            "texts",
        ),
        Flag(
            "range",
            "LOW,HIGH",
            "Values of black and white in the files; or auto (default: from the values), or container (limits of the "
            "type).",
        ),
        Flag(
            "page",
            "N",
            "Page or frame to restore of each file, from 1. Default: all pages of a TIFF stack, otherwise the first.",
            "integer",
        ),
        Flag(
            "max_pixels",
            "N",
            "Refuse larger images before decoding them. Default: 100000000.",
            "integer",
            100_000_000,
        ),
    ),
    "Task": (
        Flag("task", "NAME", f"The degradation: {', '.join(TASKS)}. Default: denoise."),
        Flag(
            "noise_std",
            "LEVEL",
            "Standard deviation of the noise in gray levels (0 to 255), if it is known. Default: estimated.",
            "number",
        ),
        Flag(
            "noise_unit",
            "UNIT",
            "Unit of --noise_std: gray (default), or file for the values of the file.",
        ),
        Flag(
            "factor",
            "N",
            "super_resolve: ratio of output size to input size, per side. Default: 4.",
            "integer",
        ),
        Flag(
            "angles",
            "DEGREES",
            "ct: the angles, separated by commas, or a .npy or text file that lists them. Default: evenly spaced.",
        ),
        Flag("operator", "FILE:NAME", "custom: a JAX function of an image, in a Python file."),
        Flag(
            "plugin", "FILE", "A Python file that registers tasks for --task; repeatable.", "texts"
        ),
    ),
    "Method": (
        Flag("preset", "NAME", "A named setting; --list_presets shows them."),
        Flag(
            "method",
            "NAME",
            "fit (default: a point estimate), or sgld (samples of the posterior and their mean).",
        ),
        Flag(
            "num_steps",
            "N",
            "Maximum number of optimization steps. Default: that of the preset.",
            "integer",
        ),
        Flag(
            "stop",
            "RULE",
            "Stopping rule: cross_validation (several networks), held_out, wmv, emv, discrepancy, sure, fixed (all "
            "steps), or all side by side. Default: that of the preset.",
        ),
        Flag(
            "num_seeds",
            "N",
            "fit: number of networks per image, whose outputs are combined.",
            "integer",
        ),
        Flag(
            "num_chains",
            "N",
            "sgld: number of chains per image, one network each. Default: 2.",
            "integer",
        ),
        Flag(
            "intervals",
            "KIND",
            "fit: error of each pixel by bootstrap (fits to images whose truth is known; about 13 times the time) or "
            "linearized (the network, linearized in its weights). Default: none.",
        ),
        Flag(
            "compare",
            "NAME",
            "Run several settings on the same images and draw them in one figure: "
            f"{', '.join(COMPARISONS)}, or presets separated by commas.",
        ),
        Flag("seed", "N", "Seed of all random numbers. Default: 0.", "integer"),
        Flag(
            "set",
            "SECTION.FIELD=VALUE",
            "Any setting; --list_settings shows them. Repeatable.",
            "texts",
        ),
    ),
    "Output": (
        Flag(
            "output",
            "FOLDER",
            "Output folder; each image gets a folder of its name in it. Default: out.",
            default="out",
        ),
        Flag(
            "flat",
            "",
            "Write each restored image to FOLDER/NAME.png (.tif, ...), and everything else to FOLDER/details/.",
            "switch",
        ),
        Flag("overwrite", "", "Replace an earlier run of the same images.", "switch"),
        Flag(
            "resume",
            "",
            "Continue an earlier run: keep finished images and continue those in progress.",
            "switch",
        ),
        Flag(
            "checkpoint_every",
            "MINUTES",
            "Time between checkpoints of the images in progress. Default: 5.",
            "number",
        ),
    ),
    "Machine": (
        Flag("plan", "", "Forecast the memory and time of the run, and exit.", "switch"),
        Flag(
            "precision",
            "TYPE",
            "Precision of the products in the network: float32 (default on CPU), tf32 (default elsewhere) or bfloat16.",
        ),
        Flag(
            "slots",
            "N",
            "Number of images that share a device. Default: 1 on CPU, up to 8 elsewhere.",
            "integer",
        ),
        Flag("cpu_devices", "N", "Number of devices that the CPU is divided into.", "integer"),
        Flag(
            "keep_compiled",
            "",
            "Store compiled programs in the user's cache folder for later runs. Default: on; --nokeep_compiled turns "
            "it off.",
            "switch",
            True,
        ),
    ),
    "Several processes": (
        Flag(
            "distributed",
            "",
            "Divide the images among the processes that a launcher started.",
            "switch",
        ),
        Flag(
            "num_processes",
            "N",
            "Number of processes that divide the images without a launcher.",
            "integer",
        ),
        Flag("process_id", "N", "Index of this process, from 0.", "integer"),
        Flag(
            "coordinator",
            "HOST:PORT",
            "Address of process 0, where the processes meet; --resume needs none.",
        ),
    ),
    "Information": (
        Flag("help", "", "Show this text and exit.", "switch", letter="h"),
        Flag("version", "", "Show the versions of dip_jax, jax and Python, and exit.", "switch"),
        Flag(
            "list_presets",
            "TASK",
            "List the presets, of all tasks or of one, and exit.",
            "listing",
        ),
        Flag(
            "list_settings",
            "SECTION",
            "List the settings for --set with type, bounds and default, of all sections or of one, and exit.",
            "listing",
        ),
    ),
}


class _ListingParser(flags.ArgumentParser):
    """Any text; a flag of this parser needs no value."""

    def parse(self, argument: Any) -> str:
        return str(argument)


def all_flags() -> Iterator[Flag]:
    """The flags of all groups."""
    for group in GROUPS.values():
        yield from group


def build_flags() -> flags.FlagValues:
    """Returns the flags with their defaults, to be parsed once."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # images may stand before, between and after flags
    for flag in all_flags():
        options: dict[str, Any] = {"flag_values": values, "short_name": flag.letter}
        if flag.kind == "listing":
            parser: flags.ArgumentParser = _ListingParser()
            added = flags.Flag(parser, None, flag.name, None, flag.meaning, boolean=True)
            flags.DEFINE_flag(added, flag_values=values)
            continue
        define: Any = {
            "text": flags.DEFINE_string,
            "texts": flags.DEFINE_multi_string,
            "integer": flags.DEFINE_integer,
            "number": flags.DEFINE_float,
            "switch": flags.DEFINE_boolean,
        }[flag.kind]
        default: Any = {"texts": [], "switch": flag.default or False}.get(flag.kind, flag.default)
        define(flag.name, default, flag.meaning, **options)
    return values


def parse_flags(arguments: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """Parses the arguments of the command.

    Args:
      arguments: The arguments, without the name of the command.

    Returns:
      The flags, and the arguments that are none.

    Raises:
      InputError: For an unknown flag, or a value of another type.

    Example:
      >>> flags, images = parse_flags(["a.png", "--seed=3", "b.png"])
      >>> flags.seed, images
      (3, ['a.png', 'b.png'])
    """
    values = build_flags()
    try:
        return values, values(["dip-jax", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [flag.name for flag in all_flags()]
        near = difflib.get_close_matches(error.flagname, names, n=1, cutoff=0.4)
        hint = f"; did you mean --{near[0]}?" if near else ""
        raise InputError(f"Unknown flag --{error.flagname}{hint}") from None
    except flags.IllegalFlagValueError as error:
        raise InputError(_describe_illegal(str(error))) from None
    except flags.Error as error:
        raise InputError(str(error)) from None


def _describe_illegal(message: str) -> str:
    """Our words for an error of absl about the value of a flag."""
    match = re.match(r"flag --(\w+)=(.*?): ", message, re.DOTALL)
    kinds = {flag.name: flag.kind for flag in all_flags()}
    expected = {"integer": "an integer", "number": "a number", "switch": "true or false"}
    if match is None or kinds.get(match[1]) not in expected:
        return message
    return f"--{match[1]} expects {expected[kinds[match[1]]]}, got {shorten(match[2])}."
