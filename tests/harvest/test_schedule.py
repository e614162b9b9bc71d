"""Who is asked when: manners, pauses, retries and outages, against a clock of the test's own."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest.config import Fetch, Politeness
from harvest.schedule import Schedule
from skelcore.errors import RunError


def made(places, *, retries=2, wait=1.0, **rules):
    """A schedule over ``places``, the host of each source in order."""
    schedule = Schedule(Politeness(**{"gap_seconds": 0.0, "jitter_seconds": 0.0, **rules}),
                        Fetch(retries=retries, wait_seconds=wait))
    for source, host in enumerate(places):
        schedule.add(source, host)
    return schedule


def simulate(schedule, hosts, answer, workers=8, seconds=0.5, until=1e9):
    """Run it: ``answer(source, now, try_number)`` gives None or (reason, wait).

    Returns every ask as (time, source), what each source was settled as, and the end.
    """
    now, asks, settled, tries, busy = 0.0, [], {}, {}, []
    while len(schedule) or busy:
        while len(busy) < workers and (source := schedule.take(now)) is not None:
            asks.append((now, source))
            busy.append((now + seconds, source))
        ends = min((time for time, _ in busy), default=float("inf"))
        now = min(ends, now + schedule.wait(now)) if len(busy) < workers else ends
        assert now < until
        for time, source in [entry for entry in busy if entry[0] <= now]:
            busy.remove((time, source))
            tries[source] = tries.get(source, 0) + 1
            found = answer(source, now, tries[source])
            schedule.landed(source)
            if found is None:
                schedule.answered(hosts[source])
                assert source not in settled
                settled[source] = "ok"
            else:
                for gone in schedule.failed(source, hosts[source], found[0], found[1], now):
                    assert gone not in settled
                    settled[gone] = found[0]
    return asks, settled, now


def fine(source, now, tries):
    return None


def test_a_host_is_asked_once_at_a_time_and_not_too_often():
    hosts = ["a"] * 5 + ["b"] * 5 + [None] * 5
    asks, settled, _ = simulate(made(hosts, gap_seconds=10.0, jitter_seconds=5.0), hosts, fine)
    assert settled == dict.fromkeys(range(15), "ok")
    for host in "ab":
        times = [time for time, source in asks if hosts[source] == host]
        gaps = [b - a for a, b in pairwise(times)]
        assert all(10 <= gap <= 15.5 for gap in gaps) and len(set(gaps)) > 1
    # Local files wait for nobody, and hosts not for one another.
    assert max(time for time, source in asks if hosts[source] is None) <= 1
    assert [source for time, source in asks if time == 0][:2] == [0, 5]


def test_rules_of_a_host_of_its_own():
    hosts = ["mine"] * 8
    schedule = made(hosts, gap_seconds=10.0, hosts={"mine": {"concurrency": 4, "gap_seconds": 0}})
    asks, _, end = simulate(schedule, hosts, fine)
    assert [sum(time == t for time, _ in asks) for t in (0, 0.5)] == [4, 4] and end == 1.0


def test_the_earliest_source_that_may_be_fetched_comes_first():
    hosts = ["a", "b", "a", None, "b"]
    asks, _, _ = simulate(made(hosts), hosts, fine, workers=1)
    assert [source for _, source in asks] == [0, 1, 2, 3, 4]


def test_transient_failures_are_tried_again_with_growing_pauses_and_terminal_ones_are_not():
    hosts = ["a", "b"]

    def answer(source, now, tries):
        return ("server", None) if source == 0 else ("gone", None)

    asks, settled, _ = simulate(made(hosts, wait=4.0), hosts, answer)
    assert settled == {0: "server", 1: "gone"}
    assert [time for time, source in asks if source == 0] == [0, 4.5, 13] and len(asks) == 4


def test_too_many_requests_rests_the_host_as_long_as_it_asks_and_costs_no_try(caplog):
    hosts = ["a", "a", "b"]

    def answer(source, now, tries):
        return ("rate_limited", 100.0) if source == 0 and tries == 1 else None

    schedule = made(hosts, retries=0)
    asks, settled, _ = simulate(schedule, hosts, answer)
    assert settled == dict.fromkeys(range(3), "ok")
    assert [(time, source) for time, source in asks if hosts[source] == "a"] == [(0, 0), (100.5, 0), (101, 1)]
    assert [record.message for record in caplog.records] == ["a: the host answered 429; asked again in 100 s"]


def test_without_a_time_the_rest_doubles_and_a_bot_check_rests_longer():
    def first_two(reason):
        hosts = ["a"]
        asks, _, _ = simulate(made(hosts), hosts, lambda source, now, tries: (reason, None) if tries < 3 else None)
        return [round(time) for time, _ in asks]

    assert first_two("rate_limited") == [0, 60, 181]
    assert first_two("bot_check") == [0, 3600, 10801]


def test_no_host_makes_us_wait_for_ever():
    hosts = ["a"]
    asks, _, _ = simulate(made(hosts, longest_pause_seconds=50.0), hosts,
                          lambda source, now, tries: ("rate_limited", 1e9) if tries == 1 else None)
    assert asks[1][0] == 50.5


def test_a_host_that_goes_on_refusing_is_left_alone_and_all_its_sources_are_told():
    hosts = ["a"] * 50 + ["b"]
    asks, settled, _ = simulate(made(hosts, pauses=2), hosts,
                                lambda source, now, tries: ("rate_limited", 5.0) if hosts[source] == "a" else None)
    assert settled == {**dict.fromkeys(range(50), "rate_limited"), 50: "ok"}
    assert sum(hosts[source] == "a" for _, source in asks) == 3


def test_refusals_of_what_was_under_way_count_as_one_pause():
    hosts = ["a"] * 9
    schedule = made(hosts, concurrency=8, pauses=1)
    _, settled, _ = simulate(schedule, hosts,
                             lambda source, now, tries: ("rate_limited", 5.0) if tries == 1 and now < 1 else None)
    assert set(settled.values()) == {"ok"}


def test_a_dead_host_among_living_ones_is_given_up_without_asking_for_each_source():
    hosts = ["dead"] * 500 + ["b"] * 20
    asks, settled, _ = simulate(made(hosts), hosts,
                                lambda source, now, tries: ("network", None) if hosts[source] == "dead" else None)
    assert settled == {**dict.fromkeys(range(500), "network"), **dict.fromkeys(range(500, 520), "ok")}
    assert sum(hosts[source] == "dead" for _, source in asks) < 20


def test_an_outage_burns_no_source():
    """The network is down from 2 s to 400 s; every host works before and after."""
    hosts = [f"h{i % 40}" for i in range(400)]
    schedule = made(hosts, retries=0)
    asks, settled, end = simulate(schedule, hosts,
                                  lambda source, now, tries: ("network", None) if 2 < now < 400 else None,
                                  workers=16, until=2000)
    # Those that failed before it was clear that it was not their fault are few.
    assert sum(reason == "network" for reason in settled.values()) < 10 and len(settled) == 400
    assert 400 < end < 1000 and not schedule.outage
    assert sum(40 < time < 400 for time, _ in asks) < 10


def test_an_outage_without_end_ends_the_run_and_leaves_the_rest():
    hosts = [f"h{i % 40}" for i in range(400)]
    schedule = made(hosts)
    with pytest.raises(RunError, match="no host has answered"):
        simulate(schedule, hosts, lambda source, now, tries: ("network", None))
    assert len(schedule) > 350


def test_a_list_of_local_files_goes_on_through_an_outage():
    hosts = ["a"] * 30 + [None] * 5
    schedule = made(hosts)
    with pytest.raises(RunError):
        simulate(schedule, hosts, lambda source, now, tries: ("network", None) if hosts[source] else None)
    assert all(schedule.take(1e9) != local for local in range(30, 35))


def test_what_a_dead_worker_held_is_fetched_again_first():
    hosts = ["a", "a", "a"]
    schedule = made(hosts)
    assert schedule.take(0) == 0 and schedule.take(0) is None
    schedule.lost(0, "a")
    assert schedule.take(0) == 0
    schedule.landed(0)
    schedule.lost(0, "a")  # fetched, but not yet estimated
    assert len(schedule) == 3 and schedule.take(0) == 0


REASONS = st.sampled_from([None, None, None, "server", "network", "rate_limited", "bot_check", "gone", "incomplete"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=40),
       st.lists(st.tuples(REASONS, st.sampled_from([None, 0.0, 3.0])), min_size=1, max_size=60),
       st.integers(1, 3), st.floats(0, 3), st.integers(1, 9))
def test_every_source_is_settled_once_and_no_host_is_overrun(hosts, answers, concurrency, gap, workers):
    schedule = made(hosts, concurrency=concurrency, gap_seconds=gap, pauses=2)
    count = [0]

    def answer(source, now, tries):
        count[0] += 1
        reason, wait = answers[count[0] % len(answers)]
        # Sooner or later all is well.
        return (reason, wait) if reason and count[0] < 300 and (hosts[source] or reason in ("server", "gone")) else None

    try:
        asks, settled, _ = simulate(schedule, hosts, answer, workers)
    except RunError:
        return
    assert set(settled) == set(range(len(hosts))) and len(schedule) == 0
    for host in "abc":
        times = [time for time, source in asks if hosts[source] == host]
        for at in times:
            assert sum(at - 0.5 + 1e-9 < time <= at for time in times) <= concurrency
        if gap:
            assert all(b - a >= gap - 1e-9 for a, b in pairwise(times))
