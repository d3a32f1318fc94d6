"""When a project is retrained, where its admin wants it otherwise than the settings say.

Label Studio's *Settings → Model → Any extra params* is the place to say it, for each /setup brings what stands there.
"""

import json
import logging
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from underpaint.settings import Settings

log = logging.getLogger(__name__)

PREFIX = "retrain_"


class PolicyError(ValueError):
    """The extra params can't be followed; the message says what could."""


class Policy(BaseModel):
    """What counts for one project instead of the settings of the same names; None where those count."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    retrain_after_labels: int | None = Field(None, ge=1)
    retrain_after_minutes: float | None = Field(None, ge=0)
    retrain_quiet_seconds: float | None = Field(None, ge=0)

    @classmethod
    def of(cls, extra_params: object) -> "Policy":
        """What extra params say: a JSON object, or the text of one, as Label Studio's form sends it.

        Params of other names are nothing to us. Raises PolicyError: Label Studio then refuses to save them, but keeps
        the reason to itself, so that only the log shows it.
        """
        params = _parsed(extra_params)
        others = [name for name in params if not name.startswith(PREFIX)]
        if others:
            log.debug("extra params that mean nothing here: %s", ", ".join(others))
        try:
            return cls.model_validate({name: value for name, value in params.items() if name not in others})
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise PolicyError(
                f"the extra params can't be followed ({faults}): what a project may have of its own is "
                f"{', '.join(cls.model_fields)}"
            ) from error

    def over(self, settings: Settings) -> Settings:
        """The settings that count for the project."""
        return settings.model_copy(update=self.model_dump(exclude_none=True))


def _parsed(extra_params: object) -> dict[str, Any]:
    params = extra_params
    if isinstance(params, str):
        try:
            params = json.loads(params) if params.strip() else {}
        except ValueError as error:
            raise PolicyError(
                f'the extra params are no JSON ({error}): write an object such as {{"retrain_after_labels": 20}}'
            ) from error
    if params is None:
        return {}
    if not isinstance(params, dict):
        raise PolicyError('the extra params are no JSON object: write one such as {"retrain_after_labels": 20}')
    return params
