import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.download.errors import FetchError
from tasks.download.rounds import spread_over_hosts
from tasks.download.sockets import HostSlots


def test_a_host_never_has_more_requests_than_its_places_and_all_get_their_turn() -> None:
    slots, stop, lock = HostSlots(), threading.Event(), threading.Lock()
    now, most, done = {"a": 0, "b": 0}, {"a": 0, "b": 0}, []

    def work(number: int) -> None:
        host = "ab"[number % 2]
        with slots.slot(host, limit=3, stop=stop):
            with lock:
                now[host] += 1
                most[host] = max(most[host], now[host])
            threading.Event().wait(0.002)
            with lock:
                now[host] -= 1
                done.append(number)

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(work, range(200)))
    assert sorted(done) == list(range(200))
    assert most == {"a": 3, "b": 3}
    assert slots.num_hosts() == 0


def test_a_place_is_free_again_after_an_error() -> None:
    slots, stop = HostSlots(), threading.Event()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.slot("a", limit=1, stop=stop):
            raise ZeroDivisionError
    assert slots.num_hosts() == 0


def test_who_waits_for_a_host_gives_up_when_the_work_is_given_up_and_leaves_no_trace() -> None:
    slots, stop = HostSlots(), threading.Event()
    stop.set()
    with slots.slot("a", limit=1, stop=stop):
        with pytest.raises(FetchError, match="connection"), slots.slot("a", limit=1, stop=stop):
            pass
        assert slots.num_hosts() == 1
    assert slots.num_hosts() == 0
    with slots.slot("a", limit=1, stop=stop):
        assert slots.num_hosts() == 1


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_spreading_keeps_every_row_and_the_order_within_a_host(hosts: list[str]) -> None:
    rows = list(enumerate(hosts))
    spread = spread_over_hosts([(row, row[1]) for row in rows])
    assert sorted(spread) == rows
    for host in "abc":
        assert [row for row in spread if row[1] == host] == [row for row in rows if row[1] == host]


def test_a_host_of_half_the_rows_takes_every_second_place() -> None:
    rows = [("big", "big")] * 50 + [(f"small{i}", f"small{i}") for i in range(50)]
    spread = spread_over_hosts(rows)
    for start in range(0, 100, 10):
        assert 4 <= spread[start : start + 10].count("big") <= 6
