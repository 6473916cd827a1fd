"""Several networks of one image that are one estimator: folds, guides, a common stop, a final filter."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
