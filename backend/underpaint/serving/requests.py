"""What Label Studio sends, reduced to the fields that Underpaint reads; everything else is skipped while parsing."""

from typing import Any, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, Field, ValidationError


class Setup(BaseModel):
    """POST /setup."""

    project: str
    label_config: str = Field("", alias="schema")
    hostname: str = ""
    access_token: str = ""
    extra_params: Any = None


class Task(BaseModel):
    """The part of a task that a prediction needs; what else Label Studio sends, RLE of old predictions and all,
    is never turned into Python objects."""

    id: int | str | None = None
    data: dict[str, Any]


class Params(BaseModel):
    context: dict[str, Any] | None = None


class Predict(BaseModel):
    """POST /predict."""

    tasks: list[Task]
    project: str
    label_config: str
    params: Params | None = None


class Annotation(BaseModel):
    was_cancelled: bool | None = False


class CountedTask(BaseModel):
    total_annotations: int | None = Field(0, ge=0, le=1_000_000)


class Webhook(BaseModel):
    """POST /webhook: any event. Label Studio sends one annotation or a list of them, deleted ones as ``annotations``,
    and for an import only the tasks, with their annotation counts."""

    action: str
    project: dict[str, Any]
    annotation: Annotation | list[Annotation] | None = None
    annotations: list[Annotation] = []
    tasks: list[CountedTask] = []

    @property
    def labels(self) -> int:
        """How many annotations the event says were accepted, changed or deleted; skipped ones teach nothing."""
        if self.action.startswith("ANNOTATION"):
            created = [self.annotation] if isinstance(self.annotation, Annotation) else self.annotation or []
            return sum(not annotation.was_cancelled for annotation in [*created, *self.annotations])
        if self.action in ("TASKS_CREATED", "TASKS_DELETED"):
            return sum(task.total_annotations or 0 for task in self.tasks)
        return 0


class Train(BaseModel):
    """POST /train: the older form of START_TRAINING; the annotations it carries are ignored, the API has them."""

    project: str


class Validate(BaseModel):
    config: str


class JobStatus(BaseModel):
    job: str


class Duplicate(BaseModel):
    project_src: str
    project_dst: str


Body = TypeVar("Body", bound=BaseModel)


def read(model: type[Body], raw: bytes) -> Body:
    """``raw`` JSON as ``model``; answers 400 and says what is missing when it isn't."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        raise HTTPException(400, f"this is not what Label Studio sends to this address: {faults}") from error
