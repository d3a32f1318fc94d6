import threading
import time

import pytest
import redis
from rq.job import JobStatus

from underpaint.signals import Pending, Signals, job_id, project_of_job

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


def test_a_state_of_a_job(signals: Signals) -> None:
    assert signals.job("unheard-of") is None
    signals.enqueue_retrain(PROJECT, timeout=60)
    state = signals.job(job_id(PROJECT))
    assert state is not None
    assert (state.status, state.ended, state.error) == ("queued", False, None)
