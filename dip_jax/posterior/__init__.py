"""Statistics of posterior samples, on arrays: moments, convergence, calibration, pooling."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
