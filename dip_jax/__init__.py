"""dip_jax: Deep Image Prior restoration in JAX. Restores a degraded image without training data.

`__init__.pyi` lists the public names and their types. They are loaded when they are first used, so
the command can report a wrong flag before it loads JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
