"""The code blocks of the documents: what tests run, what they only parse, and what cannot run here.

`python -m tests.doc_blocks` counts them.
"""

import collections
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image

from tests.conftest import smooth_image

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
        *sorted((ROOT / "docs").rglob("*.md")),
    )
}
USER_PAGES = {
    page: text
    for page, text in PAGES.items()
    if page == "README.md" or (page.startswith("docs/") and "/development/" not in page)
}
NOTEBOOK_PAGES = {page for page in PAGES if page.startswith("docs/python/notebooks/")}
FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n+)?"
    r"^(?P<indent> *)(?P<fence>```+|:::+)(?P<language>.*)\n(?P<code>(?:.*\n)*?)(?P=indent)(?P=fence)$",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A fenced block."""

    page: str
    language: str
    code: str
    reason: str
    """Why it cannot run here; empty if it can."""

    @property
    def outcome(self) -> str:
        """What the tests do with it: `run`, `parsed`, `marked`, or `text` if it has no code."""
        if self.language.startswith("{") or self.language in ("text", "bibtex"):
            return "text"
        if self.reason:
            return "marked"
        if self.page in NOTEBOOK_PAGES:
            return "run"
        if self.language == "python" or (self.language == "sh" and commands(self.code, "dip-jax")):
            return "run"
        return "parsed"


def blocks_of(page: str, text: str) -> list[Block]:
    """The blocks of a page in their order."""
    return [
        Block(page, found["language"], found["code"], found["reason"] or "")
        for found in FENCE.finditer(text)
        if found["fence"][0] == "`"
    ]


BLOCKS = [block for page, text in PAGES.items() for block in blocks_of(page, text)]
# Code spans, outside of fenced blocks.
SPANS = {
    page: set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    for page, text in PAGES.items()
}


def python_blocks() -> dict[str, list[str]]:
    """The Python blocks that are run, by page."""
    found = collections.defaultdict(list)
    for block in BLOCKS:
        if (
            block.language == "python"
            and block.outcome == "run"
            and block.page not in NOTEBOOK_PAGES
        ):
            found[block.page].append(block.code)
    return dict(found)


def commands(code: str, program: str) -> list[str]:
    """The arguments of each call of a program; lines that end with a backslash are joined."""
    joined = re.sub(r"\\\n\s*", "", code)
    pattern = (
        rf"(?:^|(?<=[\s'\"])){program}(?: +(?!#)((?:[^`'\"\n]|\"[^\"\n]*\")*?))?(?: +#.*|['\"`]|$)"
    )
    return [found[1] or "" for found in re.finditer(pattern, joined, re.MULTILINE)]


def user_commands(*, run: bool) -> dict[str, list[list[str]]]:
    """The arguments of each `dip-jax` command, by page: of the blocks that are run, or of all blocks and spans."""
    found = collections.defaultdict(list)
    for block in BLOCKS:
        if block.language == "sh" and (not run or not block.reason):
            found[block.page] += [shlex.split(line) for line in commands(block.code, "dip-jax")]
    if not run:
        for page in USER_PAGES:
            found[page] += [
                shlex.split(span)[1:] for span in sorted(SPANS[page]) if span.startswith("dip-jax ")
            ]
    return {page: lines for page, lines in found.items() if lines}


def write_files(folder: Path) -> None:
    """Writes the files that the documents name, and the modules of their Python blocks."""
    image = np.rint(smooth_image() * 255).astype(np.uint8)
    colored = (
        "photo",
        "torn",
        "small",
        "soft",
        "shaken",
        "dark",
        "flash",
        "clean",
        "night",
        "faulty",
    )
    for name in (
        *colored,
        "photos/first",
        "photos/second",
        "holiday/first",
        "holiday/second",
        "field",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        iio.imwrite(folder / f"{name}.png", image)
    iio.imwrite(folder / "old.jpg", image)
    iio.imwrite(folder / "mosaic.png", image[..., 0])
    mask = np.full(image.shape[:2], 255, np.uint8)
    mask[5:9] = 0
    iio.imwrite(folder / "mask.png", mask)
    np.save(folder / "psf.npy", np.full((3, 3), 1 / 9, np.float32))
    frequencies = np.fft.fft2(smooth_image()[..., 0], norm="ortho")
    frequencies[::3] = 0
    np.save(folder / "frequencies.npy", frequencies.astype(np.complex64))
    np.save(folder / "sinogram.npy", np.ones((57, 32), np.float32))
    resized = Image.fromarray(image).resize((64, 128))
    np.save(folder / "measured.npy", np.asarray(resized, np.float32) / 255)
    for block in BLOCKS:
        if name := re.match(r"# (\w+\.py)\n", block.code):
            (folder / name[1]).write_text(block.code)


if __name__ == "__main__":
    for title, pages in (("users", USER_PAGES), ("development", PAGES.keys() - USER_PAGES.keys())):
        chosen = [block for block in BLOCKS if block.page in pages]
        counts = collections.Counter(block.outcome for block in chosen)
        print(f"{title}: {len(chosen)} blocks on {len(pages)} pages,", dict(counts))
    for run in (False, True):
        lines = [line for found in user_commands(run=run).values() for line in found]
        print(f"dip-jax commands {'run' if run else 'parsed'}: {len(lines)}")
