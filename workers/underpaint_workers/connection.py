"""Where a project's Label Studio is, and that the project there is the same one."""

from underpaint.labelstudio.client import LabelStudio
from underpaint.project import key_of, project_id
from underpaint.settings import Settings
from underpaint.signals import Signals


class WrongProject(ValueError):
    """Label Studio's project of this id is another one, or nobody said where to find it."""


def label_studio_of(project: str, settings: Settings, signals: Signals) -> LabelStudio:
    """The client for a project: the settings' Label Studio, else the one that the project's /setup named.

    Raises WrongProject when neither is known.
    """
    if (connection := settings.label_studio or signals.connection(project)) is not None:
        return LabelStudio(*connection)
    raise WrongProject(
        f"nobody said where project {project} lives: set UNDERPAINT_LABEL_STUDIO_URL and UNDERPAINT_LABEL_STUDIO_TOKEN"
    )


def project_on(project: str, settings: Settings, signals: Signals) -> LabelStudio:
    """The client for a project, once its Label Studio has said that it is this project.

    Raises WrongProject otherwise, and LabelStudioError.
    """
    label_studio = label_studio_of(project, settings, signals)
    found = key_of(label_studio.project(project_id(project)))
    if found != project:
        raise WrongProject(
            f"{label_studio.url} has project {found}, not {project}: Label Studio was set up anew, or "
            "UNDERPAINT_LABEL_STUDIO_URL names another one"
        )
    return label_studio
