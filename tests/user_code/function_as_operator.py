import jax
import numpy as np

import dip_jax


def measure(image: jax.Array) -> jax.Array:
    return image[::2] * image[1::2]


def build_case(name: str, image: np.ndarray) -> dip_jax.Case:
    y = measure(jax.numpy.asarray(image))
    return dip_jax.case_from_operator(name, y, measure, image.shape, noise_std=0.0)


fit = dip_jax.build_fit(dip_jax.nets.deep_decoder(depth=2, width=8))
estimator = dip_jax.Estimator(fit, num_steps=24)
