"""Underdamped Langevin dynamics: weights w with a momentum, which mix faster than weights that only diffuse.

For the energy U(w), the temperature T, the friction c and a diagonal mass M, the dynamics

    dw = M^(-1/2) r dt,   dr = -M^(-1/2) grad U(w) dt - c r dt + sqrt(2 c T) dB

has the stationary density exp(-U(w) / T) exp(-|r|^2 / (2 T)). A step of length h is the splitting BAOAB, with one gradient:

    B  r <- r - (h / 2) M^(-1/2) grad U(w)
    A  w <- w + (h / 2) M^(-1/2) r
    O  r <- exp(-c h) r + sqrt(T (1 - exp(-2 c h))) n,   n ~ N(0, 1)
    A, B  as above

For a normal density it samples w without any error of the step, as long as h^2 times the largest eigenvalue of M^(-1/2) H
M^(-1/2) is below 4, for the Hessian H of U. There r has the variance T at O. So the mean of r^2 / T at O is a thermometer:
a value above 1 shows a step that is too long.

**The mass** is the Fisher information. In the posterior, E[grad U grad U^T] = T E[H], so the mean V of the squared
gradients over the burn-in is the diagonal of the mean Hessian. M = V / T + p, with the precision p of the prior, which
keeps it away from 0.

**The step size.** A network has many more weights than there are measurements. The n measurements determine at most n
directions of the weights, which then share the curvature: the mean eigenvalue of M^(-1/2) H M^(-1/2) in them is

    l = sum_i V_i / (T M_i) / n,   at least 1.

The step is h = s / sqrt(l) for a given s. The misfit of the samples grows with h^2 l, whatever the size of the network;
docs/development/sampling.md has the measurements.

References:
  Leimkuhler and Matthews, Robust and efficient configurational molecular sampling via Langevin dynamics, 2013 (BAOAB).
  Robert and Stramer, Langevin diffusions and Metropolis-Hastings algorithms, 2002 (preconditioning).
  Girolami and Calderhead, Riemann manifold Langevin and Hamiltonian Monte Carlo methods, 2011 (the Fisher mass).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dip_jax import fast_random
from dip_jax.base import Array, Params
from dip_jax.langevin import prior_precisions

DEFAULT_STEP_SIZE = 0.16
"""Half of it changes the misfit of the samples by 1 to 3 %; see docs/development/sampling.md."""

_PRIOR_STEPS = 50
"""Weight of the first gradient in the mean of the squares, in steps."""
_MEMORY = 500
"""Number of steps that this mean reaches back."""
_WINDOW = 100
"""Steps between two decisions on the step size."""
_HOT = 1.05
"""Kinetic temperature above which the step is too long."""
_CUT_OFF = 10
"""Largest component of M^(-1/2) grad U, in standard deviations T^(1/2). At a jump of the network, a single gradient could
otherwise heat all weights."""
_NUM_ERRORS = 5
"""Standard errors that its mean over a window must be above it: with few weights it scatters."""


class UnderdampedState(NamedTuple):
    """State of `underdamped_step`. All weights form one vector of the length D, so that a step has few operations."""

    num_steps: Array
    """Number of calls."""
    step_size: Array
    """Length h of the last step."""
    scale: Array
    """The step size s: the given one, or a half, a quarter ... of it."""
    num_settled: Array
    """Number of steps after the adaptation."""
    momentum: Array
    """r `[D]`."""
    mass: Array
    """Mean of the squared gradients of U `[D]`."""
    precision: Array
    """Precision p of the prior `[D]`."""
    temperature: Array
    """Mean of r^2 / T at O over the weights that move, in the last step: the kinetic temperature, 1 if the step is right."""
    heat: Array
    """Mean of `temperature` over the steps since the last decision on h."""
    virial: Array
    """Mean of w grad U / T over these weights, in the last step; 1 on average, by integration by parts."""
    mean_temperature: Array
    """r^2 / T at O, averaged over the steps after the adaptation, `[D]`; NaN for weights that do not move."""
    mean_virial: Array
    """The same mean of w grad U / T. Until the chain has mixed, it shows which weights still grow or shrink."""


def underdamped_step(
    step_size: float = DEFAULT_STEP_SIZE,
    *,
    num_adapt: int,
    friction: float = 0.3,
    temperature: float = 1.0,
    prior_precision: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the step of underdamped Langevin dynamics with the Fisher mass.

    It takes the gradient of the energy; see `langevin.energy_gradient`. During the adaptation, the mass follows the
    squared gradients and h the mass, and s is halved when the kinetic temperature exceeds T by 5 %. Afterwards all are
    constant.

    Its `update` needs `key`, a random key, and takes `num_measurements`, the number n of measurements (by default that of
    the weights), `moves`, a tree that broadcasts to the weights with 0 for those that are kept constant, `step`, the step
    of the run (by default the number of calls), and `step_factor`, a factor of h.

    Args:
      step_size: The step size s. Its unit is the inverse root of the mean curvature.
      num_adapt: Step of the run at which the adaptation ends. Only the steps from then on sample from a known density.
      friction: Friction c. About 1 / (c h) steps keep their direction.
      temperature: Temperature T, above 0.
      prior_precision: See `langevin.energy_gradient`. It is added to the mass.

    Example:
      >>> step = underdamped_step(0.1, num_adapt=100)
      >>> w, g = jnp.ones(2), jnp.ones(2)
      >>> updates, state = step.update(g, step.init(w), w, key=jax.random.key(0))
      >>> updates.shape, float(state.virial)
      ((2,), 1.0)
    """

    def init(params: Params) -> UnderdampedState:
        zeros = jnp.zeros_like(_vector(params))
        one = jnp.float32(1)
        return UnderdampedState(
            num_steps=jnp.int32(0),
            step_size=jnp.float32(step_size),
            scale=jnp.float32(step_size),
            num_settled=jnp.int32(0),
            momentum=zeros,
            mass=jnp.copy(zeros),
            precision=_vector(_filled(prior_precisions(params, prior_precision), params)),
            temperature=one,
            heat=jnp.copy(one),
            virial=jnp.copy(one),
            mean_temperature=jnp.copy(zeros),
            mean_virial=jnp.copy(zeros),
        )

    def update(
        grads: Params,
        state: UnderdampedState,
        params: Params,
        *,
        key: Array,
        num_measurements: Array | float | None = None,
        moves: Params | None = None,
        step: Array | None = None,
        step_factor: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Params, UnderdampedState]:
        del extra
        g, w = _vector(grads), _vector(params)
        on = jnp.ones_like(g) if moves is None else _vector(_filled(moves, params))
        count, num_moving = state.num_steps, jnp.maximum(jnp.sum(on), 1)
        _, start_key, noise_key = jax.random.split(key, 3)  # the first draws the noise variance

        is_adapting = ((count if step is None else step) < num_adapt) | (count == 0)
        rate = jnp.maximum(1 / (count + _PRIOR_STEPS), 1 / _MEMORY)
        mass = lax.cond(
            count == 0, lambda: _vector(_filled(_mean_squares(grads), params)), lambda: state.mass
        )
        mass = jnp.where(is_adapting, mass + rate * (g * g - mass), mass)
        mass_matrix = mass / temperature + state.precision
        speed = on / jnp.sqrt(mass_matrix)
        n = num_moving if num_measurements is None else num_measurements
        curvature = jnp.maximum(jnp.sum(on * mass / (temperature * mass_matrix)) / n, 1)
        length = jnp.where(is_adapting, state.scale / jnp.sqrt(curvature), state.step_size)

        root, h = jnp.sqrt(temperature), length * step_factor
        r = lax.cond(
            count == 0,
            lambda: root * fast_random.normal(start_key, g.shape),
            lambda: state.momentum,
        )
        # B of the last step and B of this one, which have the same gradient.
        r = r - h * root * jnp.clip(speed * g / root, -_CUT_OFF, _CUT_OFF)
        kept = jnp.exp(-friction * h)
        noise = fast_random.normal(noise_key, g.shape)
        after = kept * r + root * jnp.sqrt(1 - kept**2) * noise
        move = h / 2 * speed * (r + after)

        squares, products = r * r / temperature, w * g / temperature
        now = jnp.sum(on * squares) / num_moving
        place = count % _WINDOW
        heat = jnp.where(place == 0, now, state.heat + (now - state.heat) / (place + 1))
        # The mean over the window scatters, as if it had one value for each 1 / (c h) steps.
        values = num_moving * jnp.maximum(friction * h * _WINDOW, 1)
        limit = _HOT + _NUM_ERRORS * jnp.sqrt(2 / values)
        is_hot = is_adapting & (place == _WINDOW - 1) & (heat > limit)
        # By itself, the momentum would cool in 1 / (c h) steps.
        after = jnp.where(is_hot, root * noise, after)
        num_settled = state.num_settled + ~is_adapting
        weight = jnp.where(is_adapting, 0.0, 1 / jnp.maximum(num_settled, 1))
        weight = jnp.where(on > 0, weight, jnp.nan)
        return _tree(move, params), UnderdampedState(
            num_steps=count + 1,
            step_size=jnp.where(is_hot, 0.5, 1.0) * length,
            scale=jnp.where(is_hot, 0.5, 1.0) * state.scale,
            num_settled=num_settled,
            momentum=after,
            mass=mass,
            precision=state.precision,
            temperature=now,
            heat=heat,
            virial=jnp.sum(on * products) / num_moving,
            mean_temperature=state.mean_temperature + weight * (squares - state.mean_temperature),
            mean_virial=state.mean_virial + weight * (products - state.mean_virial),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def block_means(state: UnderdampedState, params: Params) -> dict[str, tuple[float, float]]:
    """Returns the kinetic temperature and the virial of each array of weights, by its name.

    Both are means over the steps after the adaptation, and NaN for an array that does not move. In the posterior they are
    1. A virial below 1 shows weights that still grow, one above 1 those that still shrink.

    Args:
      state: The state after the last step.
      params: The weights, of which only the structure matters.

    Example:
      >>> step = underdamped_step(0.1, num_adapt=0)
      >>> w = {"bias": jnp.zeros(2), "kernel": jnp.ones((2, 2))}
      >>> updates, state = step.update(w, step.init(w), w, key=jax.random.key(0))
      >>> sorted(block_means(state, w))
      ['bias', 'kernel']
    """
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    temperatures, virials = (
        [float(jnp.mean(leaf)) for leaf in jax.tree.leaves(_tree(vector, params))]
        for vector in (state.mean_temperature, state.mean_virial)
    )
    return dict(zip(names, zip(temperatures, virials, strict=True), strict=True))


def _vector(tree: Params) -> Array:
    """All leaves of a tree as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _tree(vector: Array, like: Params) -> Params:
    """A vector as a tree of arrays that have the shapes of another tree."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [
        vector[end - leaf.size : end].reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def _filled(values: Params, like: Params) -> Params:
    """Values that broadcast to the arrays of another tree, broadcast."""
    return jax.tree.map(lambda x, leaf: jnp.broadcast_to(x, leaf.shape), values, like)


def _mean_squares(tree: Params) -> Params:
    return jax.tree.map(lambda x: jnp.mean(x * x), tree)
