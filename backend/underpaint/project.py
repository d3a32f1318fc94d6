"""A project's key: Label Studio's ``<id>.<created>``, which no later project with the same id can share."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

_KEY = re.compile(r"(\d+)\.(\d+)")


class ProjectError(ValueError):
    """A project was named in a way that Underpaint can't follow; the message says what would do."""


def check_key(key: str) -> str:
    """``key`` itself when it reads ``<id>.<created_ts>``; raises :class:`ProjectError` otherwise."""
    if not _KEY.fullmatch(key):
        raise ProjectError(
            f"project {key!r} is not of Label Studio's form <id>.<created timestamp>, such as 3.1795344327; "
            "send the `project` field as Label Studio does"
        )
    return key


def project_id(key: str) -> int:
    """Label Studio's numeric id within a key."""
    return int(check_key(key).split(".")[0])


def key_of(project: Mapping[str, Any]) -> str:
    """The key of a project as Label Studio serialises it: ``id`` and ``created_at`` (ISO 8601) are needed."""
    try:
        created = datetime.fromisoformat(str(project["created_at"]).replace("Z", "+00:00"))
        return check_key(f"{int(project['id'])}.{int(created.timestamp())}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProjectError(
            "`project` lacks a usable `id` or `created_at`; send it as Label Studio's webhooks and API do"
        ) from error


def find_key(name: str, known: Iterable[str]) -> str | None:
    """The key that ``name`` (a key, or a numeric id) stands for among ``known`` ones: the newest of an id, or None."""
    if _KEY.fullmatch(name):
        return name
    matches = [key for key in known if _KEY.fullmatch(key) and key.split(".")[0] == name]
    return max(matches, key=lambda key: int(key.split(".")[1]), default=None)
