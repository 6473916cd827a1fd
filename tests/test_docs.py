"""What the README and the page of tasks show must run."""

import re
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from absl.testing import flagsaver

DOCS = Path(__file__).parents[1] / "docs"
README = (DOCS.parent / "README.md").read_text()
TASKS = (DOCS / "tasks.md").read_text()


def test_the_lines_of_python_restore_a_picture(tmp_path, monkeypatch, picture, tiny):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(block.strip().splitlines()) <= 10
    # the same lines, with a smaller network and fewer steps
    quick = ", ".join(f'"{override}"' for override in (*tiny, "fit.num_steps=6"))
    block = block.replace('"fit.num_steps=1500"', quick)
    assert quick in block
    monkeypatch.chdir(tmp_path)
    iio.imwrite("photo.png", np.rint(picture * 255).astype(np.uint8))
    exec(block, {})
    assert iio.imread("restored.png").shape == (40, 36, 3)


def test_every_file_it_points_to_is_there():
    root = Path(__file__).parents[1]
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            found = target.startswith("http") or (page.parent / target).exists()
            assert found, f"{page.name}: {target}"


def test_every_flag_it_names_is_a_flag():
    import main

    named = set(re.findall(r"--([a-z_]+)", README))
    assert named <= set(main.FLAGS)


def test_every_command_it_and_the_tasks_show_has_settings_that_exist():
    import main

    commands = re.findall(r"^python main\.py (--.*?)(?:  +#.*)?$", README + TASKS, re.M)
    assert len(commands) > 15
    for command in commands:
        with flagsaver.flagsaver():
            main.FLAGS.unparse_flags()
            assert not main.FLAGS(["main.py", *command.split()])[1:], command
            for config in main._configs(main.FLAGS.preset).values():
                assert config.task.name == (main.FLAGS.task or config.task.name), command


def test_every_picture_that_the_tasks_show_is_there_and_has_its_command():
    pictures = re.findall(r"!\[\]\((images/[a-z_0-9]+\.png)\)", TASKS)
    assert len(pictures) > 8
    for picture in pictures:
        assert (DOCS / picture).exists(), picture
        assert f"docs/{picture}" in TASKS, picture
