"""The one exception for a user's mistake, what a full disk looks like, and an error in a line; they need no JAX."""

import errno


class InputError(ValueError):
    """A user's mistake. The message says what was expected, what came and what to do."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, by its number or, as orbax has it, in words."""
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return by_number or any(words in str(error) for words in ("No space left", "quota exceeded"))


def describe_error(error: BaseException) -> str:
    """An error as a line for the user."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return f"out of memory: use a smaller picture, fewer channels or --slots=1 ({text})"
    return text
