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


def write_pages(folder: AnyPath, summaries: Sequence[Summary]) -> str:
    """Writes all files about a whole run.

    Args:
      folder: The output folder of the run, with the folder of each image.
      summaries: The summary of each image.

    Returns:
      A sentence about the standard deviations of all images; empty if they are not calibrated.

    Raises:
      OSError: If a file cannot be written.
    """
    write_run_summary(folder, summaries)
    files = Manifest(folder)
    write_text(files.path("summary.csv"), to_csv(summaries))
    calibration = write_folder_calibration(files, summaries)
    message = ""
    if calibration is not None:
        message = f"Calibration over the folder: {calibration['message']}."
    write_contact_sheets(folder, [summary for summary in summaries if not summary["error"]])
    write_page(folder, summaries, message=message)
    return message
