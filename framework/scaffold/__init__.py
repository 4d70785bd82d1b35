"""scaffold: a new plugin as an installable project that passes its own tests, to begin from."""

from framework.scaffold.names import require_free
from framework.scaffold.project import KIND_OF_WORD, Project, new_project, write_project

__all__ = ["KIND_OF_WORD", "Project", "new_project", "require_free", "write_project"]
