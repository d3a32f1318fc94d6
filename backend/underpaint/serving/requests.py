"""What Label Studio sends, reduced to the fields that Underpaint reads; everything else is skipped while parsing."""

from typing import Any, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Setup(BaseModel):
    """POST /setup."""

    project: str
    label_config: str = Field("", alias="schema")
    hostname: str = ""
    access_token: str = ""


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


class Webhook(BaseModel):
    """POST /webhook: any event."""

    model_config = ConfigDict(extra="allow")
    action: str
    project: dict[str, Any]


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
