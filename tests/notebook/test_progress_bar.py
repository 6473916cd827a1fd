import io

from rich.console import Console

from dip_jax import ProgressBar
from dip_jax.engine.scheduler import Progress


def show(console, *progresses):
    with ProgressBar(console) as bar:
        for progress in progresses:
            bar(progress)


def test_a_terminal_shows_the_step_the_loss_and_the_psnr():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    show(console, Progress(("[a]",), (7,), 10, 2.0, 0.012345, 31.25))
    assert "[a]" in text.getvalue()
    assert "step 7/10" in text.getvalue()
    assert "loss 0.01235" in text.getvalue() or "loss 0.01234" in text.getvalue()
    assert "31.25 dB" in text.getvalue()


def test_several_networks_are_shown_by_the_slowest():
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    show(console, Progress(("a", "b"), (7, 3), 10, 2.0, 0.5, None))
    assert "2 networks" in text.getvalue()
    assert "step 3/10" in text.getvalue()


def test_a_file_gets_no_bar():
    text = io.StringIO()
    show(Console(file=text), Progress(("a",), (7,), 10, 2.0, 0.5, None))
    assert not text.getvalue().strip()
