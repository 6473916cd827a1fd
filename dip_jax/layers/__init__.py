"""Image operations with gradients of their own: convolution, padding, resizing, normalization. No network, no config."""
