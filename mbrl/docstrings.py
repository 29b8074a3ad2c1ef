"""What docstrings say, as texts for people who do not read code: help on the command line, hints in the viewer."""

import functools
import inspect
import re
from typing import Any


@functools.cache
def described(kind: Any) -> dict[str, str]:
    """What the docstrings of a class and its bases, or of a function, say about its fields or arguments."""
    texts: dict[str, str] = {}
    for one in reversed(getattr(kind, "__mro__", (kind,))):
        text = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^(?:Attributes|Args):\n((?:[ \t]+.*\n?|\n)*)", text, re.MULTILINE)
        for entry in re.split(r"^ {4}(?=\w)", section[1], flags=re.MULTILINE) if section else ():
            name, colon, words = entry.partition(":")
            if colon:
                texts[name.strip()] = plain(" ".join(words.split()))
    return texts


def first_sentence(kind: Any) -> str:
    """The first line of the docstring of a class or function."""
    return plain(inspect.cleandoc(kind.__doc__ or "").partition("\n")[0])


def plain(text: str) -> str:
    """Prose without the markup of reStructuredText, and formulas as far as letters go."""
    text = re.sub(r":math:`([^`]*)`", lambda found: re.sub(r"\\(\w+)", r"\1", found[1]), text)
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
