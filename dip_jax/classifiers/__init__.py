"""Trained classifiers of images, whose activations are measurements."""
