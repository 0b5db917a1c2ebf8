"""The command-line reference: every command with every option, as the program has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import typer

from apps.cli import app


def test_every_command_and_option(hook: Callable[[str], ModuleType]) -> None:
    page = hook("command_line").command_line_page()
    sections = re.split(r"^## ", page, flags=re.M)[1:]
    by_name = {section.split(" ", 1)[0]: section for section in sections}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(by_name) == set(commands)
    assert len(commands) > 20
    for name, command in commands.items():
        assert f"{{ #{name} }}" in by_name[name].splitlines()[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for spelling in parameter.opts:
                    assert re.search(rf"`.*{re.escape(spelling)}\b.*`: \S", by_name[name]), (
                        name,
                        spelling,
                    )


def test_examples_are_code(hook: Callable[[str], ModuleType]) -> None:
    page = hook("command_line").command_line_page()
    assert "```console\n$ boneage-xai cohort ~/rsna\n```" in page
    assert "Example:" not in page
