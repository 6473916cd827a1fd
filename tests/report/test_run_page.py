"""The page of a run: its data, its links, and names that could break it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from dip_jax.base import Status
from dip_jax.config import to_json
from dip_jax.images.read import StoredImage
from dip_jax.presets import build_config
from dip_jax.report.image import report_image
from dip_jax.report.manifest import Manifest
from dip_jax.report.run_page import write_page
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import write_summary

CONFIG = build_config("denoise_single", overrides=["fit.num_steps=50"])
ODD = 'cost $5 [red] <b>"x"</b> #6 %20 é </script><!-- \u2028'


class Page(HTMLParser):
    """The elements of a page, as a browser would find them."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self._id = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.links += [found[name] for name in ("href", "src") if name in found]
        self._id = found.get("id") or tag

    def handle_data(self, data):
        self.texts[self._id] = self.texts.get(self._id, "") + data

    @property
    def data(self) -> dict:
        return json.loads(self.texts["data"])

    @property
    def images(self) -> list[dict]:
        data = self.data
        rows = [
            data["common"] | dict(zip(data["columns"], row, strict=True)) for row in data["rows"]
        ]
        return [
            {
                **row,
                "files": data["files"][row["files"]],
                "settings": data["settings"][row["settings"]],
            }
            for row in rows
        ]


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


def failure(name: str, error: str = "out of memory"):
    return failure_summary(name, CONFIG, error)


def test_each_image_has_its_figures_files_and_settings(tmp_path, case, sampled):
    template = StoredImage(case.reference)
    summaries = [
        report_image(
            tmp_path, case._replace(name=name), sampled._replace(name=name), CONFIG, template
        )
        for name in ("photo", "sub/c", "stack/page-0001")
    ]
    write_pages(tmp_path, summaries)
    found = page_of(tmp_path).images
    assert [image["name"] for image in found] == ["photo", "sub/c", "stack/page-0001"]
    for image, summary in zip(found, summaries, strict=True):
        folder = tmp_path / image["path"]
        assert set(image["files"]) == {
            path.relative_to(folder).as_posix() for path in folder.rglob("*.*")
        }
        assert image["psnr"] == pytest.approx(summary["psnr"], rel=1e-5)
        assert image["rhat_max"] == pytest.approx(summary["rhat_max"], rel=1e-5)
        assert (image["converged"], image["notes"]) == (False, summary["notes"])
        assert image["settings"] == {
            "preset": "preset denoise_single",
            "changes": [["fit.num_steps", "50"]],
        }


def test_every_link_of_the_page_leads_to_a_file_of_the_run_and_none_to_the_network(
    tmp_path, case, result
):
    (tmp_path / "config.json").write_text(to_json(CONFIG))
    Manifest(tmp_path).add(["config.json", "conformal.json"])  # the second was not written
    summary = report_image(tmp_path, case, result, CONFIG, StoredImage(case.reference))
    write_pages(tmp_path, [summary])
    page = page_of(tmp_path)
    links = [unquote(link) for link in page.links if link]
    assert set(links) == {"config.json", "summary.json", "summary.csv", "contact-1.png", "photo/"}
    assert all((tmp_path / link).exists() for link in links)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", (tmp_path / "index.html").read_text())


def test_a_name_is_text_wherever_it_stands(tmp_path):
    write_pages(tmp_path, [failure(ODD, f"{ODD} cannot be read"), failure("plain")])
    page = page_of(tmp_path)
    assert page.tags.count("script") == 2
    assert "b" not in page.tags
    assert [image["name"] for image in page.images] == [ODD, "plain"]
    assert page.images[0]["error"] == f"{ODD} cannot be read"
    (link,) = [link for link in page.links if link.startswith("cost")]
    assert unquote(link) == f"{ODD}/"
    assert "<" not in page.texts["data"]


def test_an_image_that_failed_has_links_to_existing_files_only(tmp_path):
    summary = failure("broken")
    files = Manifest(tmp_path, "broken")
    files.reserve(["restored.png", "sheet.png"])
    write_summary(files, summary)
    write_page(tmp_path, [summary])
    (image,) = page_of(tmp_path).images
    assert image["files"] == ["summary.json"]
    assert image["status"] == Status.FAILED


def test_the_head_counts_the_images_and_states_the_settings(tmp_path):
    done = {**failure("a"), "status": Status.DONE, "error": None, "seconds": 100.4}
    write_page(tmp_path, [done, {**done, "name": "b"}, failure("c")], message="It is <fine>.")
    text = (tmp_path / "index.html").read_text()
    assert "<h1>3 images</h1>" in text
    assert re.search(r'class="subtitle">2 done, 1 failed; \d{4}-', text)
    assert "It is &lt;fine&gt;." in text
    assert "<dd>0:03:21</dd>" in text
    write_page(tmp_path, [done])
    assert "<h1>1 image</h1>" in (tmp_path / "index.html").read_text()


def test_a_comparison_has_a_row_for_each_image_and_setting(tmp_path, case, result):
    summaries = []
    for label, overrides in {"rate 0.1": ["fit.learning_rate=0.1"], "plain": []}.items():
        config = build_config("denoise_single", overrides=overrides)
        run = tmp_path / label.replace(" ", "_")
        summary = report_image(run, case, result, config, StoredImage(case.reference))
        summaries.append({**summary, "variant": label})
    write_page(tmp_path, summaries, folders={"rate 0.1": "rate_0.1", "plain": "plain"})
    found = page_of(tmp_path).images
    assert [(i["name"], i["variant"]) for i in found] == [("photo", "rate 0.1"), ("photo", "plain")]
    assert [i["settings"]["changes"] for i in found] == [[["fit.learning_rate", "0.1"]], []]
    for image in found:
        assert {"restored.png", "degraded.png", "thumbnail.jpg"} <= set(image["files"])
        assert all((tmp_path / image["path"] / file).exists() for file in image["files"])
    assert "<h1>1 image, 2 settings</h1>" in (tmp_path / "index.html").read_text()


def test_settings_that_cannot_be_read_do_not_prevent_the_page(tmp_path):
    for name, content in {"damaged": b"{", "missing": None}.items():
        path = Manifest(tmp_path, name).path("config.json")
        if content is not None:
            path.write_bytes(content)
    restored = [
        {**failure(name), "status": Status.DONE, "error": None} for name in ("damaged", "missing")
    ]
    write_page(tmp_path, restored)
    damaged, missing = page_of(tmp_path).images
    assert (damaged["settings"], damaged["files"]) == (None, ["config.json"])
    assert (missing["settings"], missing["files"]) == (None, [])


def test_the_page_of_many_images_is_small(tmp_path):
    image = {
        **failure(""),
        "status": Status.DONE,
        "error": None,
        "psnr": 28.123456789,
        "seconds": 1 / 3,
    }
    summaries = [{**image, "name": f"IMG_{i:05d}", "loss": i / 7} for i in range(1000)]
    write_page(tmp_path, summaries)
    assert (tmp_path / "index.html").stat().st_size < 50_000 + 1000 * 60
