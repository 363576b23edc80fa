"""Neighbouring sentences of Python's language reference: English prose, for what was lost.

A sentence encoder finds the sentence that follows a given one better than chance, though it was
not trained on this text. After tuning on something else the same number tells what it forgot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

WORDS = (6, 40)
"""Fewest and most words of a sentence."""

_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def neighbours(
    count: int, *, seed: int = 0, topics: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """``count`` pairs of sentences that follow each other; fewer where there are fewer.

    ``topics`` maps names to texts, by default those that ``help()`` shows.

    >>> first, second = neighbours(1)[0]
    >>> first != second
    True
    """
    if topics is None:
        from pydoc_data.topics import topics as texts

        topics = texts
    pairs = []
    for _, text in sorted(topics.items()):
        for paragraph in text.split("\n\n"):
            sentences = _END.split(" ".join(paragraph.split()))
            for pair in zip(sentences[::2], sentences[1::2], strict=False):
                if all(_is_prose(x) for x in pair):
                    pairs.append(pair)
    pairs = list(dict.fromkeys(pairs))
    random.Random(seed).shuffle(pairs)
    return pairs[:count]


def _is_prose(sentence: str) -> bool:
    """Neither a rule of the grammar nor a fragment."""
    return "::=" not in sentence and WORDS[0] <= len(sentence.split()) <= WORDS[1]
