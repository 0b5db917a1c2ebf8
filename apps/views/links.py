"""Choices that live in the address, so that a page can be linked to and gone back from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import streamlit as st

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@])")


def linked_choice(
    ask: Callable[..., Any],
    label: str,
    options: Collection[str],
    parameter: str,
    *,
    listed: Sequence[str] = (),
    named: bool = False,
    **settings: Any,
) -> str:
    """Ask for one of several options and keep the answer in the address.

    Args:
        ask: a Streamlit widget that takes label, options and key.
        label: what is asked.
        options: the answers, at least one.
        parameter: name in the address.
        listed: which of the options the widget lists, all by default. Where the answer so far is
            not among them, the first of them is the answer.
        named: whether the address names the first option, too, for options that may become others.
        settings: further arguments of the widget.

    Returns:
        The answer; the first option where the address asks for none of them.
    """
    key, written, first = choice_key(parameter), _written_key(parameter), next(iter(options))
    address = st.query_params.get(parameter)
    answer = linked_answer(options, parameter)
    if listed and answer not in listed:
        answer = listed[0]
    if st.session_state.get(key) != answer:
        st.session_state[key] = answer
    chosen = str(ask(label, listed or list(options), key=key, **settings))
    st.session_state[written] = chosen
    # The first option is left out of the address, so that opening a page adds no step to the
    # history that the back button would have to undo.
    if (named or chosen != first) and chosen != address:
        st.query_params[parameter] = chosen
    elif not named and chosen == first and address is not None:
        del st.query_params[parameter]
    return chosen


def linked_answer(options: Collection[str], parameter: str) -> str:
    """Return the answer to a linked choice before it is asked; see :func:`linked_choice`."""
    address = st.query_params.get(parameter)
    asked = address if address is not None and address in options else next(iter(options))
    held = st.session_state.get(choice_key(parameter))
    # The address was changed from outside (a link, the back button, another page), or the
    # widget is new on this page.
    if asked != st.session_state.get(_written_key(parameter)) or held not in options:
        return asked
    return str(held)


def _written_key(parameter: str) -> str:
    return f"written-{parameter}"


def linked_number(
    ask: Callable[..., Any],
    label: str,
    parameter: str,
    *,
    low: int,
    high: int,
    default: int,
    **settings: Any,
) -> int:
    """Ask for a whole number and keep the answer in the address.

    Args:
        ask: a Streamlit widget that takes label, min_value, max_value and key.
        label: what is asked.
        parameter: name in the address.
        low: least answer.
        high: largest answer.
        default: the answer where the address names none that is possible; it is left out of it.
        settings: further arguments of the widget.
    """
    key, written = choice_key(parameter), _written_key(parameter)
    address = st.query_params.get(parameter)
    known = address is not None and address.isascii() and address.isdecimal() and len(address) < 9
    asked = int(address) if known and address is not None else default
    asked = asked if low <= asked <= high else default
    if asked != st.session_state.get(written) or key not in st.session_state:
        st.session_state[key] = asked
    chosen = int(ask(label, min_value=low, max_value=high, key=key, **settings))
    st.session_state[written] = chosen
    if chosen != default and str(chosen) != address:
        st.query_params[parameter] = str(chosen)
    elif chosen == default and address is not None:
        del st.query_params[parameter]
    return chosen


def choice_key(parameter: str) -> str:
    """Return the session-state key of a linked choice, for buttons that change it."""
    return f"choice-{parameter}"


def go_to(**parameters: str) -> None:
    """Show another page, case or analysis."""
    st.query_params.update(parameters)
    st.rerun()


def plain(text: str) -> str:
    """Return a text so that Markdown shows it as it is: no links, images or formulas."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
