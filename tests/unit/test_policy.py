from typing import Any

import pytest

from underpaint.policy import Policy
from underpaint.settings import Settings


@pytest.mark.parametrize(
    ("extra_params", "policy"),
    [
        ({"retrain_after_labels": 20}, Policy(retrain_after_labels=20)),
        (
            '{"retrain_after_labels": 20, "retrain_quiet_seconds": 0}',
            Policy(retrain_after_labels=20, retrain_quiet_seconds=0),
        ),
        ({"retrain_after_minutes": 7.5, "a": 1}, Policy(retrain_after_minutes=7.5)),
        ({"retrain_after_labels": None}, Policy()),
        *((nothing, Policy()) for nothing in (None, "", "  ", {}, "{}", "null", {"a": 1})),
    ],
)
def test_a_policy_is_read_as_label_studio_sends_it(extra_params: Any, policy: Policy) -> None:
    assert Policy.of(extra_params) == policy


def test_only_what_it_says_counts_instead_of_the_settings() -> None:
    settings = Settings(retrain_after_labels=5, retrain_after_minutes=60, retrain_quiet_seconds=30)
    over = Policy(retrain_after_labels=20, retrain_quiet_seconds=0).over(settings)
    assert (over.retrain_after_labels, over.retrain_after_minutes, over.retrain_quiet_seconds) == (20, 60, 0)
    assert over.store == settings.store


def test_every_part_of_a_policy_is_a_setting() -> None:
    assert Policy.model_fields.keys() <= Settings.model_fields.keys()
