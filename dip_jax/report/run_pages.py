"""The files about a whole run: `summary.json`, `summary.csv`, `conformal.json`, contact sheets, `index.html`."""

from collections.abc import Sequence

from dip_jax.report.contact_sheets import write_contact_sheets
from dip_jax.report.folder_calibration import write_folder_calibration
from dip_jax.report.manifest import Manifest
from dip_jax.report.run_page import write_page
from dip_jax.report.summary import Summary, write_run_summary
from dip_jax.report.summary_table import to_csv
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath


def write_pages(
    folder: AnyPath, summaries: Sequence[Summary], *, earlier: Sequence[Summary] = ()
) -> str:
    """Writes all files about a whole run.

    Args:
      folder: The output folder of the run, with the folder of each image.
      summaries: The summary of each image of the run. Only these calibrate each other.
      earlier: The summaries of images that earlier runs wrote into the same folder; the page also shows them.

    Returns:
      A sentence about the standard deviations of all images; empty if they are not calibrated.

    Raises:
      OSError: If a file cannot be written.
    """
    all_summaries = [*earlier, *summaries]
    write_run_summary(folder, all_summaries)
    files = Manifest(folder)
    write_text(files.path("summary.csv"), to_csv(all_summaries))
    calibration = write_folder_calibration(files, summaries)
    message = ""
    if calibration is not None:
        message = f"Calibration over the folder: {calibration['message']}."
    write_contact_sheets(folder, [s for s in all_summaries if not s["error"]])
    write_page(folder, all_summaries, message=message)
    return message
