"""The queue in numbers: who is done when, what is expected to come, and how speeds are learned from what was drawn."""

from __future__ import annotations

import itertools
import random
import statistics
from dataclasses import replace

import pytest

from sdapi.domain.drawing_speeds import DrawingSpeeds, Measured, WorkSort
from sdapi.jobs.arrivals import WINDOW_S, Arrival, expected
from sdapi.jobs.estimates import Shape, area_of, decode_cost, forward_cost
from sdapi.jobs.measured_pace import fit, plausible
from sdapi.jobs.pace import DrawnJob, learned
from sdapi.jobs.queue_model import Demand, Pace, Paces, Room, finish_times

PACE = Pace(forward_s=1.0, unit_s=2.0, end_weight=1.0)
PACES = Paces({"m": PACE})
ROOMY = Room(places=8, batch_rows=4)


def a_shape(**changes: object) -> Shape:
    """Ten steps of 1 + 2 x 0.5 = 2 s each alone, nothing at the end."""
    values = {"model": "m", "key": "m 512x512", "rows": 1, "steps": 10, "step_cost": 0.5, "end_cost": 0.0, "area": 1.0}
    return Shape(**{**values, **changes})  # type: ignore[arg-type]


def done(*demands: Demand, devices: int = 1, room: Room = ROOMY) -> dict[int, float]:
    finished = finish_times(demands, devices=devices, room=room, paces=PACES)
    return {job_id: round(seconds, 6) for job_id, seconds in finished.items()}


def test_alone_a_job_takes_its_steps_and_its_end() -> None:
    assert done(Demand(1, a_shape(end_cost=3.0))) == {1: 10 * 2.0 + 3.0 * 2.0}


def test_nothing_to_do_is_done_at_once() -> None:
    assert done() == {}


def test_only_what_is_left_takes_time() -> None:
    assert done(Demand(1, a_shape(), left=0.25)) == {1: 5.0}


def test_a_job_that_has_taken_its_steps_only_has_to_end() -> None:
    assert done(Demand(1, a_shape(end_cost=1.5), left=0.0)) == {1: 3.0}


def test_jobs_of_one_key_share_what_a_forward_costs_anyway() -> None:
    assert done(Demand(1, a_shape()), Demand(2, a_shape())) == {1: 30.0, 2: 30.0}


def test_the_samples_of_a_job_share_their_forwards() -> None:
    assert done(Demand(1, a_shape(rows=2))) == {1: 30.0}


def test_jobs_of_different_keys_take_turns() -> None:
    assert done(Demand(1, a_shape()), Demand(2, a_shape(key="m 256x256"))) == {1: 40.0, 2: 40.0}


def test_keys_have_equal_parts_of_the_time_so_that_small_pictures_step_more_often() -> None:
    small = a_shape(key="m 256x256", step_cost=0.125, steps=10)
    both = finish_times([Demand(1, a_shape(steps=100)), Demand(2, small)], devices=1, room=ROOMY, paces=PACES)
    # Ten small steps take as long as six and a quarter large ones, which come between.
    assert both[2] == pytest.approx(10 * 1.25 + 6.25 * 2.0)


def test_a_shorter_neighbour_delays_a_job_only_while_it_is_there() -> None:
    assert done(Demand(1, a_shape(steps=10)), Demand(2, a_shape(steps=4))) == {2: 12.0, 1: 12.0 + 6 * 2.0}


def test_of_equals_a_full_forward_takes_the_oldest_first() -> None:
    room = Room(places=8, batch_rows=1)
    assert done(Demand(1, a_shape()), Demand(2, a_shape()), room=room) == {1: 20.0, 2: 40.0}


def test_large_pictures_fill_a_forward_sooner() -> None:
    room = Room(places=8, batch_rows=4, batch_area=4.0)
    assert [room.rows_of(a_shape(area=area)) for area in (0.25, 1.0, 2.0, 9.0)] == [4, 4, 2, 1]


def test_what_is_drawn_as_a_whole_shares_nothing() -> None:
    whole = a_shape(shares=False)
    assert done(Demand(1, whole), Demand(2, whole)) == {1: 20.0, 2: 40.0}


def test_who_finds_no_place_waits_for_one() -> None:
    room = Room(places=1, batch_rows=4)
    assert done(Demand(1, a_shape()), Demand(2, a_shape()), room=room) == {1: 20.0, 2: 40.0}


def test_decoding_holds_up_the_others() -> None:
    demands = (Demand(1, a_shape(steps=4, end_cost=5.0)), Demand(2, a_shape(steps=10)))
    assert done(*demands) == {1: 12.0 + 10.0, 2: 12.0 + 10.0 + 6 * 2.0}


def test_who_has_least_to_do_goes_first_where_a_forward_is_full() -> None:
    room = Room(places=8, batch_rows=1)
    assert done(Demand(1, a_shape(steps=10)), Demand(2, a_shape(steps=4)), room=room) == {2: 8.0, 1: 28.0}


def test_a_short_job_that_comes_later_overtakes_a_long_one_in_flight() -> None:
    room = Room(places=8, batch_rows=1)
    assert done(Demand(1, a_shape(steps=10)), Demand(2, a_shape(steps=2), at_s=4.0), room=room) == {2: 8.0, 1: 24.0}


def test_nobody_overtakes_who_has_no_place_yet() -> None:
    room = Room(places=1, batch_rows=1)
    assert done(Demand(1, a_shape(steps=10)), Demand(2, a_shape(steps=2)), room=room) == {1: 20.0, 2: 24.0}


def test_a_job_waits_for_its_model_and_others_are_drawn_meanwhile() -> None:
    demands = (Demand(1, a_shape(), ready_s=30.0), Demand(2, a_shape()))
    assert done(*demands) == {2: 20.0, 1: 50.0}


def test_who_comes_later_delays_from_then_on() -> None:
    assert done(Demand(1, a_shape()), Demand(2, a_shape(), at_s=10.0)) == {1: 10.0 + 5 * 3.0, 2: 25.0 + 5 * 2.0}


def test_who_began_in_the_past_is_that_much_further() -> None:
    assert done(Demand(1, a_shape(), at_s=-15.0, device=0)) == {1: 5.0}


def test_two_devices_draw_side_by_side() -> None:
    assert done(Demand(1, a_shape()), Demand(2, a_shape()), devices=2) == {1: 20.0, 2: 20.0}


def test_a_job_that_is_drawn_somewhere_stays_there() -> None:
    assert done(Demand(1, a_shape(), device=0), Demand(2, a_shape(), device=0), Demand(3, a_shape()), devices=2) == {
        1: 30.0,
        2: 30.0,
        3: 20.0,
    }


def test_it_ends_when_those_are_done_that_were_asked_for() -> None:
    demands = [Demand(1, a_shape(steps=2)), Demand(2, a_shape(steps=1000))]
    assert set(finish_times(demands, devices=1, room=ROOMY, paces=PACES, until_done=[1])) == {1}


def test_in_any_queue_everything_is_done_and_nothing_sooner_than_alone() -> None:
    chance = random.Random(1)
    for _ in range(50):
        demands = [
            Demand(
                i,
                a_shape(key=chance.choice("abc"), steps=chance.randint(1, 30), rows=chance.randint(1, 4), end_cost=chance.random()),
                at_s=chance.random() * 50,
                left=chance.random(),
                ready_s=chance.random() * 20,
            )
            for i in range(chance.randint(1, 20))
        ]
        room = Room(places=chance.randint(1, 8), batch_rows=4)
        together = finish_times(demands, devices=2, room=room, paces=PACES)
        alone = {demand.id: finish_times([demand], devices=1, room=ROOMY, paces=PACES)[demand.id] for demand in demands}
        assert set(together) == set(alone)
        assert all(together[job_id] >= alone[job_id] - 1e-6 for job_id in alone)


# -- what is expected to come -------------------------------------------------------------------------------------------------------


def came(*ages_s: float) -> list[Arrival]:
    return [Arrival(age_s, a_shape()) for age_s in ages_s]


def test_a_lone_request_says_nothing_about_others() -> None:
    assert expected(came(0.0)) == []
    assert expected([]) == []


def test_a_steady_stream_is_continued_evenly_and_a_bit_thinner() -> None:
    found = expected(came(*(float(age) for age in range(30))))
    gaps = [later.at_s - sooner.at_s for sooner, later in itertools.pairwise(found)]
    assert min(gaps) == pytest.approx(max(gaps))
    assert 1.0 < gaps[0] < 2.0


def test_what_came_long_ago_is_forgotten() -> None:
    assert expected(came(0.0, WINDOW_S + 1, WINDOW_S + 2)) == []


def test_a_burst_is_not_expected_to_go_on_like_that() -> None:
    found = expected(came(*(0.02 * i for i in range(9))))
    assert found[0].at_s > 1


def test_a_stream_that_has_paused_for_long_is_believed_in_less() -> None:
    going, paused = expected(came(*(float(age) for age in range(20)))), expected(came(*(float(age) for age in range(8, 28))))
    assert paused[0].at_s > 3 * going[0].at_s


def test_a_great_burst_long_ago_leaves_nothing_to_expect() -> None:
    assert expected(came(*(20 + 0.001 * i for i in range(5000)))) == []


def test_what_was_observed_for_a_short_time_only_counts_for_that_time() -> None:
    briefly, long = expected(came(0.0, 4.0, 8.0), observed_s=10.0), expected(came(0.0, 4.0, 8.0))
    assert briefly[0].at_s < long[0].at_s


def test_expected_jobs_never_have_the_id_of_a_real_one() -> None:
    found = expected(came(*(float(age) for age in range(20))))
    assert all(demand.id < 0 for demand in found)
    assert len({demand.id for demand in found}) == len(found)


# -- learning speeds ----------------------------------------------------------------------------------------------------------------


def history(truth: Paces, *, count: int = 24, models: str = "m", every_s: float = 1.0, workers: int = 1) -> list[DrawnJob]:
    """What a stream of mixed jobs leaves behind on devices of that pace."""
    chance = random.Random(5)
    shapes = [
        a_shape(
            model=chance.choice(models), key=f"{area}", steps=chance.choice((10, 20)), step_cost=area / 2, end_cost=0.8 * area, area=area
        )
        for area in (chance.choice((0.0625, 0.25, 1.0)) for _ in range(count))
    ]
    demands = [
        Demand(i, Shape(**{**vars(shape), "key": shape.model + shape.key}), at_s=i * every_s, device=i % workers)
        for i, shape in enumerate(shapes)
    ]
    ended = finish_times(demands, devices=workers, room=ROOMY, paces=truth)
    return [DrawnJob(d.id, d.shape, f"w{d.device}", d.at_s, ended[d.id] - d.at_s) for d in demands]


def settled(jobs: list[DrawnJob]) -> Paces:
    paces = Paces()
    for _ in range(6):
        paces = learned(paces, jobs, ROOMY)
    return paces


@pytest.mark.parametrize("truth", [Pace(), Pace(0.03, 0.02, 1.0), Pace(0.001, 0.1, 5.0), Pace(0.3, 1.0, 2.5)])
def test_a_learned_pace_tells_what_it_was_learned_from_and_what_it_was_not(truth: Pace) -> None:
    paces = settled(history(Paces({"m": truth}), every_s=truth.step_s(0.5) * 8))
    for rows, area in ((1, 1.0), (4, 0.0625), (2, 0.25)):
        shape = a_shape(rows=rows, area=area, step_cost=area / 2, end_cost=0.8 * area)
        told, real = (finish_times([Demand(1, shape)], devices=1, room=ROOMY, paces=which)[1] for which in (paces, Paces({"m": truth})))
        assert told == pytest.approx(real, rel=0.3)


def test_what_is_learned_of_a_busy_queue_does_not_swing_from_too_quick_to_too_slow() -> None:
    truth = Pace(0.001, 0.1, 5.0)
    jobs = history(Paces({"m": truth}), every_s=truth.step_s(0.5) * 8)
    demands = [Demand(job.id, job.shape, at_s=job.began_s, device=0) for job in jobs]
    paces = Paces()
    for _ in range(6):
        paces = learned(paces, jobs, ROOMY)
        replayed = finish_times(demands, devices=1, room=ROOMY, paces=paces)
        ratios = [(job.seconds or 0) / (replayed[job.id] - job.began_s) for job in jobs]
        assert statistics.median(ratios) == pytest.approx(1.0, abs=0.1)


def alone_at(paces: Paces) -> float:
    return finish_times([Demand(1, a_shape())], devices=1, room=ROOMY, paces=paces)[1]


def test_one_quick_job_is_enough_to_know_a_quick_device() -> None:
    assert alone_at(learned(Paces(), [DrawnJob(1, a_shape(), "w", 0.0, 0.01)], ROOMY)) == pytest.approx(0.02, rel=1)


def test_one_slow_job_may_only_have_been_the_first() -> None:
    usual = alone_at(Paces())
    slow = [DrawnJob(i, a_shape(), "w", 1000.0 * i, 9 * usual) for i in range(3)]
    assert alone_at(learned(Paces(), slow[:1], ROOMY)) == pytest.approx(3 * usual)
    assert alone_at(learned(Paces(), slow, ROOMY)) == pytest.approx(9 * usual, rel=0.01)


def test_nothing_drawn_is_nothing_learned() -> None:
    assert learned(PACES, [], ROOMY) == PACES
    assert learned(PACES, [DrawnJob(1, a_shape(), "w", 0.0, None)], ROOMY) == PACES


def test_each_model_has_its_own_pace_and_a_new_one_that_of_the_latest() -> None:
    truth = Paces({"a": Pace(), "b": Pace().times(6)})
    paces = settled(history(truth, models="ab", every_s=8.0))
    assert paces.of("b").unit_s / paces.of("a").unit_s == pytest.approx(6, rel=0.35)
    latest = Paces({"a": Pace().times(2), "b": Pace().times(3)})
    assert latest.of("c") == latest.of("b")
    assert Paces().of("c") == Pace()


def test_workers_of_one_table_draw_on_devices_of_their_own() -> None:
    together = settled(history(Paces({"m": Pace()}), workers=2, every_s=0.5))
    assert together.of("m").unit_s == pytest.approx(Pace().unit_s, rel=0.3)


def test_jobs_whose_company_is_not_known_are_not_reckoned_with() -> None:
    misleading = [DrawnJob(i, a_shape(), "w", -100.0 * i, 1000.0) for i in range(1, 4)]
    telling = [DrawnJob(-i, a_shape(), "w", 1000.0 * i, 20.0) for i in range(1, 3)]
    assert alone_at(learned(Paces(), [*misleading, *telling], ROOMY, complete_since_s=0.0)) == pytest.approx(20.0, rel=0.01)


def test_a_job_that_is_still_drawn_counts_as_company() -> None:
    long = a_shape(steps=1000)
    jobs = [DrawnJob(1, long, "w", 0.0, None), DrawnJob(2, a_shape(), "w", 0.0, 0.9)]
    with_company, without = (alone_at(learned(Paces(), some, ROOMY)) for some in (jobs, jobs[1:]))
    assert with_company < without


# -- what a device was measured to take ------------------------------------------------------------------------------------------------

STEPS_512 = WorkSort("m", 512, 512, 77)
ENDS_512 = WorkSort("m", 512, 512, None)
MEASURED = DrawingSpeeds({STEPS_512: Measured({2: 1.0, 8: 2.5}, 8), ENDS_512: Measured({1: 3.0}, 1)})


def a_measured_shape(**changes: object) -> Shape:
    return a_shape(**{"steps_as": (replace(STEPS_512, tokens=231), STEPS_512), "ends_as": ENDS_512, "end_cost": 9.0, **changes})


def measured_done(*demands: Demand, slower: float = 1.0) -> dict[int, float]:
    paces = Paces({"m": PACE}, MEASURED, slower={"m": slower})
    return finish_times(demands, devices=1, room=ROOMY, paces=paces)


def test_what_was_measured_counts_more_than_any_pace() -> None:
    assert measured_done(Demand(1, a_measured_shape())) == {1: pytest.approx(10 * 1.0 + 3.0)}


def test_between_measured_sizes_a_forward_takes_what_lies_between() -> None:
    both = measured_done(Demand(1, a_measured_shape()), Demand(2, a_measured_shape()))
    assert both == {1: pytest.approx(10 * 1.5 + 3.0), 2: pytest.approx(10 * 1.5 + 6.0)}


def test_as_many_share_a_forward_as_fit_while_nobody_knows_better() -> None:
    speeds = DrawingSpeeds({STEPS_512: Measured({2: 1.0}, None)})
    demands = [Demand(i, a_measured_shape(ends_as=None, end_cost=0.0)) for i in range(4)]
    finished = finish_times(demands, devices=1, room=ROOMY, paces=Paces({"m": PACE}, speeds, slower={"m": 1.0}))
    # A forward of four rows takes two and a half times as long as one of a row, as by the pace.
    assert finished == dict.fromkeys(range(4), pytest.approx(10 * 1.0 * PACE.step_s(2.0) / PACE.step_s(0.5)))


def test_no_more_share_a_forward_than_gain_from_it() -> None:
    crowd = measured_done(*(Demand(i, a_measured_shape(rows=1, ends_as=None, end_cost=0.0)) for i in range(8)))
    assert sorted(crowd.values()) == [pytest.approx(25.0)] * 4 + [pytest.approx(50.0)] * 4


def test_what_comes_between_the_forwards_counts_as_well() -> None:
    assert measured_done(Demand(1, a_measured_shape()), slower=1.5) == {1: pytest.approx(1.5 * 13.0)}


def test_samplers_that_take_two_forwards_a_step_take_twice_as_long() -> None:
    assert measured_done(Demand(1, a_measured_shape(forwards=2.0))) == {1: pytest.approx(20.0 + 3.0)}


def test_how_much_longer_it_takes_than_measured_is_learned_little_by_little() -> None:
    truth = Paces(speeds=MEASURED, fitted=fit(MEASURED), slower={"m": 2.0})
    demands = [Demand(i, a_measured_shape(), at_s=4.0 * i, device=0) for i in range(12)]
    ended = finish_times(demands, devices=1, room=ROOMY, paces=truth)
    jobs = [DrawnJob(d.id, d.shape, "w", d.at_s, ended[d.id] - d.at_s) for d in demands]
    paces, seen = replace(truth, slower={}), []
    for _ in range(30):
        paces = learned(paces, jobs, ROOMY)
        seen.append(paces.slower_by("m"))
    assert seen == sorted(seen)
    assert seen[0] < 1.5
    assert seen[-1] == pytest.approx(2.0, rel=0.05)


def test_sizes_that_were_not_measured_follow_from_those_that_were() -> None:
    truth = Pace(forward_s=0.01, unit_s=0.05, end_weight=3.0)
    known = {
        WorkSort("m", side, side, 77): Measured({n: truth.step_s(forward_cost(area_of(side, side), n)) for n in (2, 4, 8)}, 8)
        for side in (256, 512)
    }
    ends = {WorkSort("m", 256, 256, None): Measured({1: truth.end_s(decode_cost(0.25))}, 1)}
    (found,) = fit(DrawingSpeeds({**known, **ends})).values()
    for value in ("forward_s", "unit_s", "end_weight"):
        assert getattr(found, value) == pytest.approx(getattr(truth, value), rel=0.05)


def test_less_work_is_not_believed_to_take_longer_than_more() -> None:
    small = WorkSort("m", 128, 128, 77)
    told = {
        small: Measured({2: 0.034, 4: 0.016, 10: 0.081}, 24),
        STEPS_512: Measured({2: 0.02, 4: 0.03}, 8),
        ENDS_512: Measured({1: 0.01}, 1),
    }
    believed = plausible(DrawingSpeeds(told)).by_sort
    assert believed[small] == Measured({2: 0.016, 4: 0.016, 10: 0.04}, 24)
    assert {sort: believed[sort] for sort in (STEPS_512, ENDS_512)} == {sort: told[sort] for sort in (STEPS_512, ENDS_512)}
    first = Measured({2: 0.034}, 4)
    assert plausible(DrawingSpeeds({**told, small: first})).by_sort[small].of(2) == 0.02, "no longer than a larger picture"
    assert plausible(DrawingSpeeds({small: first, replace(STEPS_512, model="other"): told[STEPS_512]})).by_sort[small] == first


def test_few_measurements_move_what_is_usual_only_a_little() -> None:
    (found,) = fit(DrawingSpeeds({WorkSort("m", 128, 128, 77): Measured({2: 0.02, 4: 0.02}, 4)})).values()
    assert found.step_s(forward_cost(area_of(128, 128), 3)) == pytest.approx(0.02)
    assert found.step_s(forward_cost(area_of(512, 512), 3)) > 0.06, "it is not believed that work costs nothing"


# -- several clients -------------------------------------------------------------------------------------------------------------------


def test_clients_share_the_time_however_many_keys_each_has() -> None:
    of_two_sizes = [Demand(i, a_shape(key=key), 1) for i, key in ((1, "m 512x512"), (2, "m 768x512"))]
    other = Demand(3, a_shape(key="m 512x768"), 2)
    finished = finish_times([*of_two_sizes, other], devices=1, room=ROOMY, paces=PACES)
    # Its own rows make the first client count double: it has a third of the time, a sixth for each size.
    assert finished[3] == pytest.approx(20.0 / (2 / 3))


def test_those_of_one_size_are_drawn_together_whoever_asked() -> None:
    assert done(Demand(1, a_shape(), 1), Demand(2, a_shape(), 2)) == {1: 30.0, 2: 30.0}
