"""The part of every batch that one of several processes computes."""

from __future__ import annotations

from dataclasses import dataclass

from boneage_xai.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """One of ``count`` equal parts of every batch.

    Args:
        rank: which part, from 0.
        count: how many processes there are.
    """

    rank: int = 0
    count: int = 1


WHOLE = Share()


def require_shares(count: int, batch_size: int) -> None:
    """Refuse a number of processes that cannot share a batch evenly.

    Raises:
        ConfigError: it does not divide the batch.
    """
    if batch_size % count:
        raise ConfigError(
            f"--devices, --nodes: expected a number of processes that divides the batch of "
            f"{batch_size} cases, found {count}"
        )
