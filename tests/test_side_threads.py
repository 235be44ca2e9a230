"""Work in other threads: done once, whoever is there to do it."""

import threading
import time

import pytest

from gmeta_tf import side_threads
from gmeta_tf.side_threads import Work, begin, side_by_side


def no_thread(call, arguments):
    raise RuntimeError("can't start new thread")


def no_memory(call, arguments):
    raise MemoryError


def dead_thread(call, arguments):
    """A thread that is started and ends before its first line."""


def late_thread(call, arguments):
    threading.Timer(0.05, call).start()


STARTS = [None, no_thread, no_memory, dead_thread, late_thread]


@pytest.fixture(params=STARTS, ids=lambda start: getattr(start, "__name__", "a thread"))
def threads(request, monkeypatch):
    """Threads as they are, or as they are at the end of memory."""
    if request.param is not None:
        monkeypatch.setattr(side_threads._thread, "start_new_thread", request.param)
    return request.param


def test_each_call_is_made_once(threads):
    calls = []

    def square(number):
        calls.append(number)
        time.sleep(0.001)
        return number * number

    assert side_by_side(square, iter(range(20)), 3) == [number**2 for number in range(20)]
    assert sorted(calls) == list(range(20))
    assert side_by_side(square, []) == []


def test_the_first_error_is_told_and_the_rest_is_left_out(threads):
    calls = []

    def fail_from_three_on(number):
        calls.append(number)
        if number >= 3:
            time.sleep(0.005 * (9 - number))  # the later ones fail first
            raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 3"):
        side_by_side(fail_from_three_on, range(100), 2)
    assert len(calls) < 10
    number_then = len(calls)
    time.sleep(0.1)
    assert len(calls) == number_then  # nothing goes on behind the caller's back


def test_a_result_is_made_by_who_asks_where_no_thread_is_there(threads):
    ids = []
    begin(work := Work(lambda: ids.append(threading.get_ident()) or 42))
    assert work.result() == 42
    assert work.result() == 42
    assert len(ids) == 1
    if threads is not None:
        assert ids == [threading.get_ident()]


def test_an_error_is_told_to_who_asks(threads):
    begin(work := Work(lambda: 1 // 0))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            work.result()


def test_dropped_work_is_not_begun(threads):
    calls = []
    work = Work(lambda: calls.append(1))
    work.drop()
    begin(work)
    time.sleep(0.1)
    assert calls == []


def test_dropped_work_that_was_begun_is_waited_for():
    begun, calls = threading.Event(), []

    def call():
        begun.set()
        time.sleep(0.05)
        calls.append(1)

    begin(work := Work(call))
    assert begun.wait(10)
    work.drop()
    assert calls == [1]


def test_threads_are_used():
    both = threading.Barrier(2, timeout=10)  # raises where one thread does all the work
    side_by_side(lambda _: both.wait(), range(2), 2)


def test_after_an_error_nothing_goes_on_behind_the_callers_back():
    both, ended = threading.Barrier(2, timeout=10), []

    def call(number):
        both.wait()
        if number == 0:
            raise ValueError("number 0")
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(ValueError, match="number 0"):
        side_by_side(call, range(2), 2)
    assert ended == [1]


def test_near_the_end_of_memory_no_thread_is_started(monkeypatch):
    started = []
    monkeypatch.setattr(side_threads._thread, "start_new_thread", lambda *_: started.append(1))
    monkeypatch.setattr(side_threads, "_ROOM_BYTES", 1 << 60)  # more than any machine has
    assert side_by_side(abs, [-1, -2], 2) == [1, 2]
    assert started == []
