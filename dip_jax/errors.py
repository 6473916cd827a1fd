"""The one exception for a user's mistake, and what a full disk looks like; they need no JAX."""

import errno


class InputError(ValueError):
    """A user's mistake. The message says what was expected, what came and what to do."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that there is no room left, by its number or, as orbax has it, in words."""
    by_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return by_number or any(words in str(error) for words in ("No space left", "quota exceeded"))
