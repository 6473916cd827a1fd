"""dip_jax: Deep Image Prior restoration in JAX. Restores a degraded image without training data.

The public names are listed, with their types, in `__init__.pyi`. They are loaded when they are first used, so that
importing the package costs nothing and the command answers a wrong flag before JAX is loaded.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
