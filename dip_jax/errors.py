"""The exception for mistakes of the user, and errors as text. No JAX."""

import errno


class InputError(ValueError):
    """A mistake of the user. The message names the expected value, the given one, and a remedy."""


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error means that the disk is full.

    The error has the number of the operating system or, from orbax, only its words.

    Example:
      >>> is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
      True
    """
    has_number = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return has_number or any(words in str(error) for words in ("No space left", "quota exceeded"))


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the memory of the host or of a device is too small.

    Example:
      >>> is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
      True
    """
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def describe_error(error: BaseException) -> str:
    """Returns an error as one line for the user: its first line, or its type.

    Example:
      >>> describe_error(ValueError("no such folder")), describe_error(KeyboardInterrupt())
      ('no such folder', 'KeyboardInterrupt')
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if is_out_of_memory(error):
        return f"out of memory; use a smaller image, fewer channels or --slots=1 ({line})"
    return line
