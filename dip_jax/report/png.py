"""PNG and JPEG files of figures and images, each written whole or not at all."""

from matplotlib.figure import Figure
from PIL import Image

from dip_jax.storage import atomic
from dip_jax.storage.paths import AnyPath

DPI = 110  # pixels per inch of a figure


def save_png(path: AnyPath, image: Figure | Image.Image) -> None:
    """Writes a matplotlib figure or a Pillow image as PNG; the same content gives the same bytes."""
    if isinstance(image, Figure):
        metadata = {"Software": None}  # else the version of matplotlib
        atomic.write(
            path, lambda file: image.savefig(file, format="png", dpi=DPI, metadata=metadata)
        )
    else:
        # The default effort takes up to four times as long for 1 to 9 % of the size.
        atomic.write(path, lambda file: image.save(file, format="png", compress_level=1))


def save_jpeg(path: AnyPath, image: Image.Image) -> None:
    """Writes a small RGB image as JPEG, where a PNG would be too large."""
    atomic.write(path, lambda file: image.save(file, format="jpeg", quality=85))
