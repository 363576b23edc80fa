"""How a verb measures: progress on stderr, and an interruption that leaves what was done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from frog.cli.console import INTERRUPTED, Progress, flush, say, suggest
from frog.report.words import count

if TYPE_CHECKING:
    from frog.api import Run


def run_of(progress: Progress, *, jobs: int | None, device: str, cache: bool,
           shard: tuple[int, int] | None = None, cluster: bool = False) -> Run:  # fmt: skip
    """A run that shows its progress; a verb that measures several models shows them as one."""
    from frog import api

    costs: dict[str, float] = {}

    def on_start(to_come: Mapping[str, float]) -> None:
        costs.update(to_come)
        progress.start(list(to_come.values()))

    return api.Run(
        jobs=jobs,
        device=device,
        cache=cache,
        shard=shard,
        cluster=cluster,
        on_start=on_start,
        on_layer=lambda m: progress.step(
            m.layer.name,
            costs.get(m.layer.name, 0.0),
            cached=m.cached,
            measured=bool(m.fingerprint) or m.layer.skipped is not None,
        ),
    )


@contextmanager
def resumable(progress: Progress, *, kept: bool) -> Iterator[None]:
    """Ctrl-C in here says what is left and how to go on; the progress ends in any case."""
    try:
        yield
    except KeyboardInterrupt:
        _give_up(progress, kept=kept)
    finally:
        progress.stop()


def tell_cached(progress: Progress) -> None:
    """Say how many layers had been measured before."""
    if progress.cached:
        say(f"{progress.cached} of {count(progress.measured, 'layer')} were in the cache")


def _give_up(progress: Progress, *, kept: bool) -> NoReturn:
    """Say what an interruption leaves and how to go on; leave at once."""
    progress.stop()
    done = f"interrupted: {count(progress.measured, 'layer')}"
    if progress.models == 1:  # how many the others have was not known yet
        done = f"interrupted: {progress.done} of {progress.total} layers"
    if not progress.total:
        say("interrupted before the first layer")
    elif kept:
        say(f"{done} are kept in the cache; the same command goes on from there:")
        suggest("frog", *sys.argv[1:])
    else:
        say(f"{done} were measured and are lost: without --no-cache they would be kept")
    flush()
    os._exit(INTERRUPTED)  # layers in flight cannot be stopped, and nobody waits for them
