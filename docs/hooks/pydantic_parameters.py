"""Show the fields of pydantic models as the parameters that they are, with types and defaults."""

from __future__ import annotations

from typing import Any

import griffe


class PydanticParameters(griffe.Extension):
    """Give every model the ``__init__`` that pydantic makes of its annotated fields.

    Griffe reads source and runs nothing, so it does not see it.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Treat all models of a package that was read (griffe calls this)."""
        for found in _classes(pkg):
            if _is_model(found) and "__init__" not in found.members:
                found.set_member("__init__", _init(found))


def _classes(within: griffe.Module | griffe.Class) -> list[griffe.Class]:
    own = [member for member in within.members.values() if not member.is_alias]
    classes = [member for member in own if isinstance(member, griffe.Class)]
    nested = [m for m in own if isinstance(m, griffe.Module | griffe.Class)]
    return classes + [found for member in nested for found in _classes(member)]


def _is_model(found: griffe.Class) -> bool:
    names = [str(base) for base in found.bases]
    if "BaseModel" in names:
        return True
    return any(
        isinstance(base, griffe.Class) and _is_model(base)
        for base in (found.module.members.get(name) for name in names)
    )


def _init(found: griffe.Class) -> griffe.Function:
    fields = [
        member
        for member in found.members.values()
        if isinstance(member, griffe.Attribute) and member.annotation is not None
    ]
    parameters = [
        griffe.Parameter(
            field.name,
            annotation=field.annotation,
            kind=griffe.ParameterKind.keyword_only,
            default=field.value,
        )
        for field in fields
        if "ClassVar" not in str(field.annotation)
    ]
    return griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=found)
