"""README says everything that a person can set or call, and its commands exist."""

import re
from pathlib import Path

from fastapi.routing import APIRoute
from typer.main import get_command

from underpaint.cli import app as command
from underpaint.labelstudio.label_config import Options
from underpaint.serving.app import create_app
from underpaint.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_every_documented_setting_exists() -> None:
    documented = set(re.findall(r"UNDERPAINT_[A-Z_]+", README))
    assert documented <= {f"UNDERPAINT_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_is_documented_with_its_default_and_its_meaning() -> None:
    for name, field in Settings.model_fields.items():
        default = ",".join(field.default) if isinstance(field.default, list) else str(field.default)
        shown = f"`{default}`" if default else "empty"
        assert f"| `UNDERPAINT_{name.upper()}` | {shown} | {field.description} |" in README


def test_every_command_is_documented() -> None:
    commands = get_command(command).commands  # type: ignore[attr-defined]
    assert not [name for name in commands if f"underpaint {name}" not in README]


def test_every_address_is_documented(settings: Settings) -> None:
    routes = [route for route in create_app(settings).routes if isinstance(route, APIRoute)]
    assert not [route.path for route in routes if f"`{route.path}`" not in README]


def test_every_option_of_a_control_tag_is_documented() -> None:
    assert not [name for name in Options.__dataclass_fields__ if f"`model_{name}`" not in README]


def test_every_make_target_is_documented() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not [target for target in targets if f"make {target}" not in README]
