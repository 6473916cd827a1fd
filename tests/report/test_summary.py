"""The schema of a summary, and its file."""

import ast
import inspect
import json

import pytest

from dip_jax.base import Status
from dip_jax.presets import build_config
from dip_jax.report import summary as module
from dip_jax.report.manifest import Manifest
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import (
    PosteriorSummary,
    StopSummary,
    Summary,
    read_summary,
    remove_summary,
    write_run_summary,
    write_summary,
)


@pytest.mark.parametrize("schema", [StopSummary, PosteriorSummary, Summary])
def test_every_key_is_documented(schema):
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == schema.__name__
    )
    docs = {
        key.target.id: text.value.value
        for key, text in zip(body, [*body[1:], None], strict=True)
        if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    inherited = PosteriorSummary.__annotations__ if schema is Summary else {}
    assert set(docs) == set(schema.__annotations__) - set(inherited)
    assert all(text[0].isupper() or text[0] == "`" for text in docs.values())
    assert all(text.endswith(".") for text in docs.values())


def test_only_keys_of_a_posterior_and_of_a_comparison_are_optional():
    assert Summary.__optional_keys__ == {*PosteriorSummary.__annotations__, "variant"}
    assert not PosteriorSummary.__required_keys__


@pytest.fixture
def summary() -> Summary:
    return failure_summary("a/photo", build_config("denoise"), "out of memory")


def test_a_summary_is_read_as_it_was_written(tmp_path, summary):
    write_summary(Manifest(tmp_path, "a/photo"), summary)
    found = read_summary(tmp_path / "a" / "photo")
    assert found == summary
    assert found["status"] is Status.FAILED
    remove_summary(tmp_path, "a/photo")
    assert read_summary(tmp_path / "a" / "photo") is None
    remove_summary(tmp_path, "a/photo")


@pytest.mark.parametrize("status", Status)
def test_a_status_is_stored_as_its_string(tmp_path, summary, status):
    write_summary(Manifest(tmp_path, "a"), {**summary, "status": status})
    assert json.loads((tmp_path / "a/summary.json").read_text())["status"] == status.value
    assert read_summary(tmp_path / "a")["status"] is status


def test_a_summary_that_no_run_wrote_is_neither_replaced_nor_removed(tmp_path, summary):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/summary.json").write_text("mine")
    with pytest.raises(FileExistsError, match="is not recorded as a file of dip_jax"):
        write_summary(Manifest(tmp_path, "a"), summary)
    remove_summary(tmp_path, "a")
    assert (tmp_path / "a/summary.json").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"status": "done"}', b"\xff"])
def test_a_damaged_or_incomplete_summary_counts_as_none(tmp_path, text):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "summary.json").write_bytes(content)
    assert read_summary(tmp_path) is None


def test_a_summary_without_a_required_key_or_of_unknown_status_counts_as_none(tmp_path, summary):
    for key in Summary.__required_keys__:
        content = {name: value for name, value in summary.items() if name != key}
        (tmp_path / "summary.json").write_text(json.dumps(content))
        assert read_summary(tmp_path) is None, key
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "status": "resting"}))
    assert read_summary(tmp_path) is None


def test_the_summary_of_a_run_is_the_list_of_all(tmp_path, summary):
    other = {**summary, "name": "b"}
    write_run_summary(tmp_path, [summary, other])
    assert json.loads((tmp_path / "summary.json").read_text()) == [summary, other]
    assert read_summary(tmp_path) is None
