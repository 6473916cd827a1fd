import itertools
import queue
import threading
import time

import numpy as np
import pytest

from dip_jax.base import Case, Problem
from dip_jax.engine.case_queue import MAX_READ_AHEAD, CaseQueue, read_ahead
from dip_jax.operators.basic import Identity


def build_case(name, height=4):
    measurement = np.full((height, 4, 1), 0.5, np.float32)
    return Case(name, Problem(Identity(), measurement, 0.1), measurement.shape)


def never():
    return False


def signature_of(case, sides_per_octave=0):
    with read_ahead([case], never, sides_per_octave) as cases:
        return cases.peek().signature


def take_name(cases, signature):
    queued = cases.take(signature, wait=True)
    return None if queued is None else queued.case.name


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_cases_are_taken_in_their_order():
    signature = signature_of(build_case("a"))
    with read_ahead(map(build_case, "abc"), never, 0) as cases:
        assert [take_name(cases, signature) for _ in range(4)] == ["a", "b", "c", None]
        assert cases.peek() is None


def test_the_first_case_of_a_signature_is_taken_before_others():
    low, high = signature_of(build_case("", 4)), signature_of(build_case("", 5))
    heights = {"a": 4, "b": 4, "c": 5, "d": 4}
    with read_ahead(itertools.starmap(build_case, heights.items()), never, 0) as cases:
        assert take_name(cases, high) == "c"
        assert cases.peek().case.name == "a"
        assert take_name(cases, high) is None
        assert [take_name(cases, low) for _ in range(4)] == ["a", "b", "d", None]


def test_a_peek_takes_nothing():
    with read_ahead([build_case("a")], never, 0) as cases:
        first = cases.peek()
        assert first.case.name == "a"
        assert cases.peek() is first
        assert cases.take(first.signature, wait=True) is first
        assert cases.peek() is None


def test_images_of_one_canvas_have_one_signature():
    even, odd = build_case("even", 40), build_case("odd", 39)
    assert signature_of(even, sides_per_octave=4) == signature_of(odd, sides_per_octave=4)
    assert signature_of(even) != signature_of(odd)
    with read_ahead([odd], never, 4) as cases:
        queued = cases.peek()
    assert queued.case is odd
    assert queued.padded.shape == (40, 4, 1)


def test_cases_of_different_programs_have_different_signatures():
    case = build_case("a")
    image = case.problem.measurement
    others = [
        case._replace(reference=image),
        case._replace(problem=case.problem._replace(weights=image)),
        case._replace(problem=case.problem._replace(measurement=image.astype(np.complex64))),
        build_case("a", 5),
    ]
    signatures = [signature_of(other) for other in (case, *others)]
    assert all(a != b for a, b in itertools.combinations(signatures, 2))
    brighter = case._replace(problem=case.problem._replace(measurement=image + 0.1))
    assert signature_of(brighter._replace(name="b")) == signatures[0]


def test_the_thread_reads_a_limited_number_of_cases_ahead():
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield build_case(str(number))

    with read_ahead(endless(), never, 0) as cases:
        # One more than the buffer holds: the last one waits for a place in it.
        wait_until(lambda: len(read) == MAX_READ_AHEAD + 1)
        time.sleep(0.3)
        assert len(read) == MAX_READ_AHEAD + 1
        # As many cases wait for another program.
        assert take_name(cases, "another signature") is None
        wait_until(lambda: len(read) == 2 * MAX_READ_AHEAD + 1)
        time.sleep(0.3)
        assert len(read) == 2 * MAX_READ_AHEAD + 1
        assert cases.peek().case.name == "0"


def test_an_error_of_the_iterable_reaches_the_caller_after_the_cases_before_it():
    def broken():
        yield build_case("a")
        raise KeyError("no such image")

    signature = signature_of(build_case("a"))
    with read_ahead(broken(), never, 0) as cases:
        assert take_name(cases, signature) == "a"
        with pytest.raises(KeyError, match="no such image"):
            cases.peek()


def test_should_stop_ends_the_wait():
    released = threading.Event()

    def slow():
        released.wait(20)
        yield build_case("a")

    with read_ahead(slow(), lambda: True, 0) as cases:
        assert cases.peek() is None
        assert take_name(cases, "any signature") is None
        released.set()


def test_without_waiting_nothing_is_taken_from_an_empty_buffer():
    source = queue.Queue()
    cases = CaseQueue(source, never, 0)
    signature = signature_of(build_case("a"))
    assert cases.take(signature, wait=False) is None
    source.put(build_case("a"))
    assert cases.take(signature, wait=False).case.name == "a"
    assert cases.take(signature, wait=False) is None


def endless_cases():
    return (build_case(str(number)) for number in itertools.count())


@pytest.mark.parametrize("source", [endless_cases, lambda: [build_case("a")], lambda: []])
def test_no_thread_is_left(source):
    before = set(threading.enumerate())
    with read_ahead(source(), never, 0) as cases:
        assert len(set(threading.enumerate()) - before) <= 1
        cases.peek()
    assert set(threading.enumerate()) <= before


def test_no_thread_is_left_after_an_error():
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), read_ahead(endless_cases(), never, 0):
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before
