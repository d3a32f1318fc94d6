import pytest

from underpaint.project import ProjectError, check_key, find_key, key_of, project_id


def test_a_webhook_and_a_setup_name_the_same_project() -> None:
    # The pair as Label Studio 1.23.2 sent it for one project.
    assert key_of({"id": 1, "created_at": "2026-11-22T10:45:27.414541Z"}) == "1.1795344327"


@pytest.mark.parametrize("key", ["", "1", "1.2.3", "../1.2", "a.b", "1.2\n"])
def test_a_key_of_another_form_is_refused(key: str) -> None:
    with pytest.raises(ProjectError, match="Label Studio"):
        check_key(key)


@pytest.mark.parametrize("project", [{}, {"id": 1}, {"id": "x", "created_at": "2026-11-22T10:45:27Z"}])
def test_a_project_without_id_or_date_is_refused(project: dict[str, object]) -> None:
    with pytest.raises(ProjectError, match="created_at"):
        key_of(project)


def test_an_id_means_the_newest_project_that_had_it() -> None:
    known = ["3.100", "3.99", "30.500", "junk"]
    assert find_key("3", known) == "3.100"
    assert find_key("3.7", known) == "3.7"
    assert find_key("4", known) is None
    assert project_id("3.100") == 3


def test_a_key_that_is_made_is_a_key_that_is_taken() -> None:
    with pytest.raises(ProjectError):
        key_of({"id": -3, "created_at": "2026-11-22T10:45:27Z"})
    with pytest.raises(ProjectError):
        key_of({"id": 3, "created_at": "1960-01-01T00:00:00Z"})
