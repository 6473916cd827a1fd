"""The posterior: statistics of samples on arrays, and approximations that need no Markov chain."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
