"""Image operations with their own gradients: convolution, padding, resizing, normalization.

This room imports neither networks nor configs.
"""
