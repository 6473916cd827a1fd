"""Image operations with their own gradients: convolution, padding, resizing, normalization.

This room knows neither networks nor configs.
"""
