import threading
import time

import pytest
import redis
from rq.job import JobStatus

from underpaint.completions import COMPLETIONS, STORED_SECONDS
from underpaint.signals import Pending, Signals, completion_id, job_id, project_of_job

PROJECT = "3.1795344327"


def test_notes_add_up_until_they_are_taken(signals: Signals) -> None:
    signals.note(PROJECT, 2, now=10.0)
    signals.note(PROJECT, 1, now=20.0)
    assert signals.pending() == {PROJECT: Pending(labels=3, first=10.0, last=20.0)}
    assert signals.take(PROJECT) == Pending(labels=3, first=10.0, last=20.0)
    assert signals.take(PROJECT) == Pending()
    assert signals.pending() == {}


def test_no_note_is_lost_between_many_hands(signals: Signals) -> None:
    taken: list[int] = []

    def note() -> None:
        for _ in range(50):
            signals.note(PROJECT, 1)

    writers = [threading.Thread(target=note) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        taken.append(signals.take(PROJECT).labels)
    taken.append(signals.take(PROJECT).labels)
    assert sum(taken) == 200


def test_a_project_has_one_retrain_in_the_queue(signals: Signals) -> None:
    assert signals.enqueue_retrain(PROJECT, timeout=60)
    assert not signals.enqueue_retrain(PROJECT, timeout=60)
    assert signals.enqueue_retrain("4.1", timeout=60)
    assert sorted(signals.queue.job_ids) == sorted([job_id(PROJECT), job_id("4.1")])


def test_a_job_tells_its_project() -> None:
    assert project_of_job(job_id(PROJECT)) == PROJECT
    assert project_of_job("some-other-job") is None
    assert project_of_job("") is None


def test_promotions_reach_a_listener(signals: Signals) -> None:
    heard: list[str] = []
    stopping = threading.Event()

    def listen() -> None:
        for project in signals.promoted(stopping):
            heard.append(project)
            stopping.set()

    listener = threading.Thread(target=listen)
    listener.start()
    while not signals.redis.pubsub_numsub("underpaint:promoted")[0][1]:
        time.sleep(0.01)
    signals.announce(PROJECT)
    listener.join(5)
    assert heard == [PROJECT]


def test_a_connection_is_remembered(signals: Signals) -> None:
    assert signals.connection(PROJECT) is None
    signals.remember_connection(PROJECT, "http://studio", "secret")
    assert signals.connection(PROJECT) == ("http://studio", "secret")


def test_without_redis_every_call_fails_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(redis.RedisError):
        Signals("redis://127.0.0.1:1/0", "underpaint").pending()
    assert time.monotonic() - started < 5


def test_a_failed_retrain_is_tried_again_at_once_only_when_a_person_asks(signals: Signals) -> None:
    signals.enqueue_retrain(PROJECT, timeout=60)
    job = signals.queue.fetch_job(job_id(PROJECT))
    assert job is not None
    signals.queue.remove(job)
    job.set_status(JobStatus.FAILED)
    assert not signals.enqueue_retrain(PROJECT, timeout=60)
    assert signals.enqueue_retrain(PROJECT, timeout=60, again=True)
    assert signals.queue.job_ids == [job_id(PROJECT)]
    assert not signals.enqueue_retrain(PROJECT, timeout=60, again=True)


def test_a_job_that_was_killed_after_redis_was_wiped_does_not_keep_its_place(signals: Signals) -> None:
    assert signals.enqueue_retrain(PROJECT, timeout=60)
    job = signals.queue.jobs[0]
    signals.redis.flushall()
    job.meta["stage"] = "train"
    job.save_meta()  # type: ignore[no-untyped-call]
    assert signals.enqueue_retrain(PROJECT, timeout=60)
    assert signals.queue.job_ids == [job_id(PROJECT)]
    assert not signals.enqueue_retrain(PROJECT, timeout=60)


def test_a_state_of_a_job(signals: Signals) -> None:
    assert signals.job("unheard-of") is None
    signals.enqueue_retrain(PROJECT, timeout=60)
    state = signals.job(job_id(PROJECT))
    assert state is not None
    assert (state.status, state.ended, state.error) == ("queued", False, None)


def failed(signals: Signals, identifier: str) -> None:
    """Leave a queued job as a worker leaves one that failed."""
    job = signals.queue.fetch_job(identifier)
    assert job is not None
    signals.queue.remove(job)
    job.set_status(JobStatus.FAILED)


def test_a_project_has_one_completion_for_all_that_waits(signals: Signals) -> None:
    assert signals.enqueue_completion(PROJECT, [11, 12, 13], "v1", timeout=60)
    assert signals.enqueue_completion(PROJECT, [13, 2], "v1", timeout=60), "the one that is queued does these too"
    assert signals.enqueue_completion("4.1", [1], "v1", timeout=60)
    assert sorted(signals.queue.job_ids) == sorted([completion_id(PROJECT), completion_id("4.1")])
    assert signals.completions.waiting() == {PROJECT: 4, "4.1": 1}
    assert signals.completions.first(PROJECT, 3) == [11, 12, 13], "in the order in which they came"
    assert signals.completions.first(PROJECT, 9) == [11, 12, 13, 2]


def test_a_completion_that_failed_is_not_tried_again_at_once(signals: Signals) -> None:
    signals.enqueue_completion(PROJECT, [1], "v1", timeout=60)
    failed(signals, completion_id(PROJECT))
    assert not signals.enqueue_completion(PROJECT, [2], "v1", timeout=60)
    assert signals.resume_completions(timeout=60) == []
    assert signals.completions.waiting() == {PROJECT: 2}


def test_what_waits_without_a_job_is_resumed(signals: Signals) -> None:
    signals.completions.add(PROJECT, [1, 2])
    signals.completions.add("4.1", [1])
    assert signals.enqueue_completion("4.1", [], "v1", timeout=60)
    assert signals.resume_completions(timeout=60) == [PROJECT]
    assert signals.resume_completions(timeout=60) == []


def test_a_task_belongs_to_the_worker_or_to_a_call(signals: Signals) -> None:
    completions = signals.completions
    completions.add(PROJECT, [1, 2, 3, 4])
    assert completions.claim(PROJECT, "v1", [2, 4, 99]) == set()
    assert completions.hold(PROJECT, "v1", [1, 2]) == [1], "a call has claimed 2"
    assert completions.claim(PROJECT, "v1", [1, 2, 3]) == {1}, "the worker is storing 1"
    assert completions.hold(PROJECT, "v1", [3]) == []
    assert completions.remove(PROJECT, [1]) == 0
    assert completions.waiting() == {}
    assert completions.claim(PROJECT, "v1", [1]) == {1}, "a call that was sent before 1 was stored"
    assert completions.claim(PROJECT, "v2", [1]) == set(), "1 has no prediction by another version"
    assert completions.claim(PROJECT, "v1", []) == set()


def test_a_claimed_task_can_wait_anew(signals: Signals) -> None:
    completions = signals.completions
    completions.add(PROJECT, [1, 2])
    completions.claim(PROJECT, "v1", [1])
    completions.add(PROJECT, [1])
    assert completions.first(PROJECT, 2) == [2, 1]
    assert completions.hold(PROJECT, "v1", [1, 2]) == [1, 2]


def test_what_a_killed_worker_held_can_be_claimed_after_a_while(signals: Signals) -> None:
    completions = signals.completions
    completions.add(PROJECT, [1, 2, 3])
    completions.hold(PROJECT, "v1", [1])
    assert completions.first(PROJECT, 3) == [1, 2, 3], "it is the next worker's turn first"
    assert completions.claim(PROJECT, "v1", [1]) == {1}
    signals.redis.zadd(f"{COMPLETIONS}:{PROJECT}:v1", {"1": time.time() - STORED_SECONDS - 5})
    assert completions.claim(PROJECT, "v1", [1]) == set()
    assert completions.first(PROJECT, 3) == [2, 3]


def test_no_task_is_stored_twice_between_many_hands(signals: Signals) -> None:
    """What Label Studio has in the end, when calls keep coming for all that it lacks while a worker is at them."""
    tasks = list(range(300))
    studio: list[int] = []
    signals.completions.add(PROJECT, tasks)

    def work() -> None:
        while chunk := signals.completions.first(PROJECT, 7):
            time.sleep(0.002)
            studio.extend(signals.completions.hold(PROJECT, "v1", sorted(set(chunk) - set(studio))))
            signals.completions.remove(PROJECT, chunk)

    def call() -> None:
        while lacking := sorted(set(tasks) - set(studio))[-40:]:
            time.sleep(0.002)
            mine = sorted(set(lacking) - signals.completions.claim(PROJECT, "v1", lacking))
            time.sleep(0.002)
            studio.extend(mine[:10])
            signals.completions.add(PROJECT, mine[10:])  # no time for these

    hands = [threading.Thread(target=hand) for hand in (work, call)]
    for hand in hands:
        hand.start()
    hands[1].join()
    hands[0].join()
    assert sorted(studio) == tasks


def test_what_waits_is_forgotten_with_its_project(signals: Signals) -> None:
    signals.completions.add(PROJECT, [1, 2])
    assert 0 < signals.redis.ttl(f"{COMPLETIONS}:{PROJECT}") <= 24 * 3600
    signals.completions.clear(PROJECT)
    assert signals.completions.waiting() == {}
    assert signals.completions.first(PROJECT, 5) == []
