"""The one exception for a user's mistake; here so that `config` and `images` need no JAX for it."""


class InputError(ValueError):
    """A user's mistake. The message says what was expected, what came and what to do."""
