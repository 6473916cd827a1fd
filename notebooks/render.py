"""Executes the notebooks and writes them, with their output, as pages of the documentation.

    python -m notebooks.render [NAME ...]

It needs the extra `notebooks` (`pip install -e '.[notebooks]'`).
"""

import re
import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

FOLDER = Path(__file__).parent
OUTPUT = FOLDER.parent / "docs" / "python" / "notebooks"
NAMES = ("first_restoration", "own_parts", "when_to_stop", "posterior")


def render(name: str) -> float:
    """Writes the page of a notebook and its figures; returns the seconds of its execution.

    Args:
      name: Name of the script, without suffix.
    """
    notebook = jupytext.read(FOLDER / f"{name}.py")
    clock = time.perf_counter()
    client = NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": "."}})
    client.execute()
    seconds = time.perf_counter() - clock
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, {"output_files_dir": f"{name}_files"}
    )
    figures = OUTPUT / f"{name}_files"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.glob("*.png"):
        old.unlink()
    for path, content in resources["outputs"].items():
        (OUTPUT / path).write_bytes(content)
    source = f"Rendered from [notebooks/{name}.py](../../../notebooks/{name}.py)."
    (OUTPUT / f"{name}.md").write_text(f"{text.strip()}\n\n{source}\n")
    return seconds


def is_progress(output: dict) -> bool:
    """Whether an output is that of a progress bar, of which a page has nothing to show."""
    data = output.get("data", {})
    html = re.sub(r"<[^>]*>", "", "".join(data.get("text/html", "text")))
    return "application/vnd.jupyter.widget-view+json" in data or not html.strip()


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        print(f"{chosen}: {render(chosen):.0f} s", flush=True)
