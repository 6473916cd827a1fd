import dataclasses

import numpy as np

from dip_jax.base import Case, Problem, Status
from dip_jax.engine.active_network import ActiveNetwork, failed_result
from dip_jax.engine.case_queue import QueuedCase
from dip_jax.engine.step_loop import SlotStatus
from dip_jax.operators.from_file import CustomOperator

OPERATOR = CustomOperator(lambda image: image, is_linear=True, digest="first")
IMAGE = np.full((4, 5, 1), 0.5, np.float32)
CASE = Case("a", Problem(OPERATOR, IMAGE, np.float32(0.1)), IMAGE.shape, IMAGE)


def start_network(case, index=0):
    return ActiveNetwork(QueuedCase(case, case, None), index)


def test_the_fingerprint_covers_all_numbers_of_a_case_and_the_file_of_its_operator():
    changes = [
        {"measurement": IMAGE + 0.1},
        {"noise_std": np.float32(0.2)},
        {"weights": IMAGE},
        {"operator": dataclasses.replace(OPERATOR, digest="second")},
    ]
    cases = [CASE, CASE._replace(reference=IMAGE + 0.1)]
    cases += [CASE._replace(problem=CASE.problem._replace(**change)) for change in changes]
    assert len({start_network(case).fingerprint() for case in cases}) == 6
    renamed = CASE._replace(name="b", notes=("a note",))
    assert start_network(renamed).fingerprint() == start_network(CASE).fingerprint()


def build_status(num_steps):
    names = set(SlotStatus._fields) - {"num_steps", "stops"}
    zeros = {name: np.zeros(2, np.int32) for name in names}
    return SlotStatus(num_steps=np.array([0, num_steps]), stops={}, **zeros)


def test_a_log_has_only_the_steps_that_its_slot_made():
    network = start_network(CASE, index=1)
    network.append(
        build_status(2),
        {
            "step": np.array([[0, 1, 2], [0, 1, -1]]),
            "loss": np.array([[9.0, 9.0, 9.0], [0.5, 0.4, np.nan]]),
        },
    )
    assert network.num_steps == 2
    assert network.last_values() == {"step": 1, "loss": 0.4}
    network.append(build_status(2), {"step": np.full((2, 3), -1), "loss": np.zeros((2, 3))})
    assert network.last_values() is None


def test_a_log_has_the_traces_of_samples_only():
    network = start_network(CASE)
    traces = np.arange(6.0).reshape(1, 3, 2)
    logs = {"step": np.array([[0, 1, 2]]), "sampled": np.array([[1.0, 0.0, 1.0]])}
    network.append(build_status(3), {**logs, "trace": traces})
    (log,) = network._logs
    np.testing.assert_array_equal(log["trace"], traces[0, [0, 2]])
    assert set(network.last_values()) == {"step", "sampled"}


def test_a_failed_result_has_the_error_and_no_image():
    error = ValueError("no")
    result = failed_result(CASE._replace(network_index=2), error)
    assert (result.name, result.network_index, result.status) == ("a", 2, Status.FAILED)
    assert result.error is error
    assert result.image.size == 0
