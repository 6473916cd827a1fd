"""The scripts of `user_code` use public names only; each is a part of a researcher's own, in at most 15 lines."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dip_jax
from dip_jax import CheckpointStore, RunConfig, restore_many
from dip_jax.engine.scheduler import Progress

FOLDER = Path(__file__).parent / "user_code"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
# The others are slow tests.
BY_DEFAULT = ("own_stopping_rule", "function_as_operator")
RUN = RunConfig(slots=4, chunk=6)
NAMES = ("a", "b", "c", "d", "e")


def build_cases(script, image):
    if hasattr(script, "build_case"):
        return [script.build_case(name, image) for name in NAMES]
    rng = np.random.default_rng(0)
    return [
        dip_jax.case_from_operator(
            name,
            image + rng.normal(0, 0.1, image.shape).astype(np.float32),
            dip_jax.operators.Identity(),
            image.shape,
            noise_std=0.1,
            reference=image,
        )
        for name in NAMES
    ]


def stop_after(num_chunks):
    chunks = []

    def count(progress: Progress) -> None:
        if not progress.phase:
            chunks.append(progress)

    return {"on_progress": count, "should_stop": lambda: len(chunks) >= num_chunks}


@pytest.mark.usefixtures("shared_programs")
@pytest.mark.parametrize(
    "name",
    [pytest.param(s, marks=() if s in BY_DEFAULT else pytest.mark.slow) for s in SCRIPTS],
)
def test_a_part_of_the_user_runs_in_slots_and_resumes_from_a_checkpoint_to_the_bit(
    name, image, tmp_path
):
    script = importlib.import_module(f"tests.user_code.{name}")
    cases = build_cases(script, image[:24, :20])
    whole = {r.name: r for r in restore_many(cases, script.estimator, run=RUN)}
    store = CheckpointStore(tmp_path, every_minutes=0, keep=1)
    interrupted = list(restore_many(cases, script.estimator, run=RUN, store=store, **stop_after(2)))
    assert {r.status for r in interrupted} == {"interrupted"}
    assert all(0 < r.num_steps < 24 for r in interrupted)
    resumed = {
        r.name: r
        for r in restore_many(
            cases,
            script.estimator,
            run=RUN,
            store=CheckpointStore(tmp_path, every_minutes=9, keep=1),
        )
    }
    assert set(resumed) == set(whole) == set(NAMES)
    for key, result in resumed.items():
        assert result.status.is_finished
        np.testing.assert_array_equal(result.image, whole[key].image)
        for column in whole[key].curve:
            np.testing.assert_array_equal(result.curve[column], whole[key].curve[column])
    losses = whole["a"].curve["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_of_the_user_has_at_most_15_lines_and_uses_public_names_only(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert len([line for line in text.splitlines() if line.strip()]) <= 15
    modules = [
        module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    ]
    assert [m for m in modules if m.startswith("dip_jax")] == ["dip_jax"]


@pytest.mark.slow
def test_a_type_checker_in_strict_mode_finds_nothing_in_the_scripts():
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(FOLDER)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parents[1])
    assert found.returncode == 0, found.stdout


@pytest.mark.slow
def test_the_chains_of_an_own_sampler_give_a_posterior(image):
    script = importlib.import_module("tests.user_code.sghmc")
    (result,) = restore_many(build_cases(script, image[:24, :20])[:1], script.estimator, run=RUN)
    assert result.posterior.traces.shape[:2] == (2, 5)
    assert result.posterior.num_samples == 10
    assert len(result.posterior.samples) == 8
    assert result.posterior.std.min() > 0
