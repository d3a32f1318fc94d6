"""Underpaint as label-studio-ml knows models: one class that runs under its 1.0.9 runner and its 2.x one.

``label-studio-ml start`` with this class serves where a team's tooling expects that runner. The project's own HTTP
front (``underpaint serve``) also answers what that runner doesn't: see README.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from underpaint.labelstudio.label_config import parse
from underpaint.project import ProjectError, find_key, key_of
from underpaint.serving.backend import Backend
from underpaint.serving.predictor import Call
from underpaint.serving.requests import Webhook
from underpaint.settings import get_settings

_backend: Backend | None = None
_lock = threading.Lock()


def _shared_backend() -> Backend:
    """The process's one backend: the runner makes a model object a request, or one for all."""
    global _backend
    with _lock:
        if _backend is None:
            _backend = Backend(get_settings())
            _backend.start()
        return _backend


class PaintingSegmenter(LabelStudioMLBase):  # type: ignore[misc]
    """Predicts with what serves the project, and asks for retrains."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None, **kwargs: Any) -> None:
        self._project = project_id
        self._connection = (kwargs.get("hostname") or "", kwargs.get("access_token") or "")
        self._shared = _shared_backend()
        super().__init__(project_id=project_id, label_config=label_config, **kwargs)

    def setup(self) -> None:
        """2.x only, called by its constructor: have its /setup answer the version that predictions carry."""
        if self._project and self.label_config:  # without one, what it answered last still holds
            version = self._shared.champions.version(self._key(self._project), parse(self.label_config))
            self.set("model_version", version)

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
    ) -> list[Any]:
        """A slot for each task, as :meth:`Predictor.predict` gives them.

        The 1.x runner doesn't say which project it predicts for, but its tasks do. Raises ``LabelConfigError``, or
        ``ProjectError`` where neither says.
        """
        if not tasks:
            return []
        if not self.label_config:
            raise ProjectError("the runner gave no label config: let Label Studio send /setup first")
        project = self._key(str(self._project or tasks[0].get("project") or ""))
        config = parse(self.label_config)
        if all(self._connection):
            self._shared.connect(project, *self._connection)
        deadline = time.monotonic() + self._shared.settings.predict_deadline
        return self._shared.predict(Call(project, tasks, config, deadline, context))[0]

    def fit(self, *args: Any, event: str | None = None, data: Mapping[str, Any] | None = None, **_: Any) -> Any:
        """Counts accepted labels, and asks for a retrain upon START_TRAINING; an RQ worker runs it when it is due.

        Called ``fit((), event=, data=)`` by 1.x, ``fit(event, data)`` by 2.x; returns what the webhook would answer.
        """
        if data is None:
            event, data = args
        webhook = Webhook.model_validate({**data, "action": event})
        project = key_of(webhook.project)
        if event == "START_TRAINING":
            return {"job": self._shared.retrains.request(project)}
        # 1.x calls this in a process that ends right after, so nothing may be left to a thread.
        if webhook.labels:
            self._shared.signals.note(project, webhook.labels)
        return {"labels": webhook.labels}

    def _key(self, name: str) -> str:
        known = {*self._shared.store.projects(), *self._shared.champions.versions()}
        # A project that nobody trained has no key in the store, and no champion whichever key it gets.
        key = find_key(name, known) or (f"{name}.0" if name.isdigit() else None)
        if key is None:
            raise ProjectError(f"neither the runner nor the task says which project this is (got {name!r})")
        return key
