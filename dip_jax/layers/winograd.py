"""Winograd's F(4x4, 3x3): a 3x3 convolution with 36 products per tile instead of 144.

The image is cut into overlapping 6x6 tiles d, one for each 4x4 tile y of the result. For a kernel
g, with * element by element,

    y = A^T ((G g G^T) * (B^T d B)) A

consists of small linear maps and one batched matrix product over the channels. The 36 elements of a
transformed tile are called nodes. The gradients are the transposed maps, with equally few products.
The relative error in float32 is 1e-6, about four times that of a plain sum.

References:
  Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, sections 4.1 and 4.2.
  Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2018.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.padding import Padding, fold, pad

_TILE, _TAPS = 4, 3
_NODES = _TILE + _TAPS - 1


def winograd_matrices(
    points: tuple[float, ...], tile: int = _TILE, taps: int = _TAPS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The Toom-Cook matrices of F(tile, taps): y = A^T ((G g) * (B^T d)).

    The values at enough points determine a product of polynomials, and a correlation is its
    transpose.

    Args:
      points: `tile + taps - 2` distinct finite points; infinity is added as the last one.
      tile: Outputs per tile.
      taps: Length of the filter.

    Returns:
      A^T `[tile, n]`, G `[n, taps]`, B^T `[n, n]` with n = tile + taps - 1, in float64.

    Raises:
      ValueError: For another number of points.

    References:
      Lavin and Gray 2016, section 4; Barabasz et al. 2018, section 3 (the most accurate points).

    Example:
      >>> import numpy as np
      >>> at, g, bt = winograd_matrices((0.0, 1.0, -1.0), tile=2, taps=3)
      >>> signal, taps = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 0.0, -1.0])
      >>> print(at @ ((g @ taps) * (bt @ signal)), np.correlate(signal, taps))
      [-2. -3.] [-2. -3.]
    """
    num_nodes = tile + taps - 1
    nodes = np.asarray(points, np.float64)
    if nodes.shape != (num_nodes - 1,):
        raise ValueError(f"F({tile}, {taps}) needs {num_nodes - 1} points, got {len(nodes)}.")
    at = np.zeros((tile, num_nodes))
    at[:, :-1] = nodes[None] ** np.arange(tile)[:, None]
    at[-1, -1] = 1
    g = np.zeros((num_nodes, taps))
    bt = np.zeros((num_nodes, num_nodes))
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        g[j] = node ** np.arange(taps) / np.prod(node - others)
        bt[j, :-1] = np.polynomial.polynomial.polyfromroots(others)
    g[-1, -1] = 1
    bt[-1] = np.polynomial.polynomial.polyfromroots(nodes)
    return at, g, bt


_AT, _G, _BT = winograd_matrices((0.0, 1.0, -1.0, 2.0, -2.0))


def _combine(weights: np.ndarray, terms: list[Array]) -> Array:
    """sum_k weights[k] terms[k] without the zero weights; XLA fuses the sum into one pass."""
    total = None
    for weight, term in zip(weights, terms, strict=True):
        if weight != 0:
            scaled = term if weight == 1 else -term if weight == -1 else float(weight) * term
            total = scaled if total is None else total + scaled
    assert total is not None
    return total


def _tile_slices(x: Array, axis: int) -> list[Array]:
    """The six elements of n overlapping tiles along `axis`, from length 4 (n + 1)."""
    num_tiles = x.shape[axis] // _TILE - 1
    split = x.reshape(*x.shape[:axis], num_tiles + 1, _TILE, *x.shape[axis + 1 :])
    before = (slice(None),) * axis
    return [
        split[(*before, slice(k // _TILE, k // _TILE + num_tiles), k % _TILE)]
        for k in range(_NODES)
    ]


def _tile_interleave(slices: list[Array], axis: int) -> Array:
    """Transposes `_tile_slices`: adds up the overlapping elements."""
    widths = [(0, 0)] * slices[0].ndim
    parts = []
    for k in range(_TILE):
        widths[axis] = (0, 1)
        part = jnp.pad(slices[k], widths)
        if k + _TILE < _NODES:
            widths[axis] = (1, 0)
            part = part + jnp.pad(slices[k + _TILE], widths)
        parts.append(part)
    stacked = jnp.stack(parts, axis=axis + 1)
    return stacked.reshape(*stacked.shape[:axis], -1, *stacked.shape[axis + 2 :])


# A barrier separates the two passes of each of the four maps. Without it XLA fuses both into one
# loop that computes each of the 36 values from up to 16 inputs. Results have a barrier too, because
# otherwise XLA recomputes them for each use, in another layout.


def _to_nodes(x: Array) -> Array:
    """B^T d B of every tile: `[4 (t + 1), 4 (u + 1), C] -> [36, t u, C]`."""
    rows = _tile_slices(x, 0)
    half = lax.optimization_barrier(jnp.stack([_combine(b, rows) for b in _BT]))
    columns = _tile_slices(half, 2)
    nodes = jnp.stack([_combine(b, columns) for b in _BT], axis=1)
    return nodes.reshape(_NODES**2, -1, x.shape[-1])


def _to_nodes_transposed(dnodes: Array, tiles: tuple[int, int]) -> Array:
    """B dV B^T of every tile, overlaps added: `[36, t u, C] -> [4 (t + 1), 4 (u + 1), C]`."""
    dnodes = dnodes.reshape(_NODES, _NODES, *tiles, -1)
    rows = [dnodes[k] for k in range(_NODES)]
    half = lax.optimization_barrier(_tile_interleave([_combine(b, rows) for b in _BT.T], 1))
    columns = [half[k] for k in range(_NODES)]
    return lax.optimization_barrier(_tile_interleave([_combine(b, columns) for b in _BT.T], 1))


def _from_nodes(nodes: Array, tiles: tuple[int, int]) -> Array:
    """A^T M A of every tile: `[36, t u, O] -> [4 t, 4 u, O]`."""
    nodes = nodes.reshape(_NODES, _NODES, *tiles, -1)
    rows = [nodes[k] for k in range(_NODES)]
    half = lax.optimization_barrier(jnp.stack([_combine(a, rows) for a in _AT], axis=2))
    columns = [half[k] for k in range(_NODES)]  # each [t, 4, u, O]
    y = jnp.stack([_combine(a, columns) for a in _AT], axis=3)
    return lax.optimization_barrier(y.reshape(_TILE * tiles[0], _TILE * tiles[1], -1))


def _from_nodes_transposed(dy: Array, tiles: tuple[int, int]) -> Array:
    """A dy A^T of every tile: `[4 t, 4 u, O] -> [36, t u, O]`."""
    split = dy.reshape(tiles[0], _TILE, tiles[1] * _TILE, -1)
    rows = [split[:, k] for k in range(_TILE)]
    half = lax.optimization_barrier(jnp.stack([_combine(a, rows) for a in _AT.T]))
    split = half.reshape(_NODES, *tiles, _TILE, -1)
    columns = [split[:, :, :, k] for k in range(_TILE)]
    dnodes = jnp.stack([_combine(a, columns) for a in _AT.T], axis=1)
    return dnodes.reshape(_NODES**2, -1, dy.shape[-1])


def _separable(m: np.ndarray, x: Array) -> Array:
    """Applies m x m^T to the first two axes of `x`, as sums: products of few terms are slow."""
    rows = jnp.stack([_combine(weights, list(x)) for weights in m])
    rows = lax.optimization_barrier(rows)
    columns = [rows[:, k] for k in range(x.shape[1])]
    return jnp.stack([_combine(weights, columns) for weights in m], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def winograd(x: Array, kernel: Array, padding: Padding) -> Array:
    """Computes a 3x3 convolution with stride 1.

    Args:
      x: Image `[H, W, C]`.
      kernel: `[3, 3, C, O]`.
      padding: See `padding.pad`.

    Returns:
      `[H, W, O]`.
    """
    return _winograd_forward(x, kernel, padding)[0]


def _num_tiles(height: int, width: int) -> tuple[int, int]:
    return -(-height // _TILE), -(-width // _TILE)


def _extra(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns that fill whole tiles, in addition to a padding of one."""
    tiles = _num_tiles(*shape[:2])
    return _TILE * (tiles[0] + 1) - shape[0] - 2, _TILE * (tiles[1] + 1) - shape[1] - 2


def _winograd_forward(x: Array, kernel: Array, padding: Padding):
    height, width = x.shape[:2]
    v = _to_nodes(pad(x, (1, 1), padding, _extra(x.shape)))
    u = _separable(_G, kernel).reshape(_NODES**2, *kernel.shape[2:])
    m = jnp.einsum("ntc,nco->nto", v, u)
    return _from_nodes(m, _num_tiles(height, width))[:height, :width], (v, u)


def _winograd_backward(padding: Padding, residuals: tuple[Array, Array], dy: Array):
    v, u = residuals
    height, width = dy.shape[:2]
    tiles = _num_tiles(height, width)
    below, right = _TILE * tiles[0] - height, _TILE * tiles[1] - width
    dy = lax.optimization_barrier(dy)
    dm = _from_nodes_transposed(jnp.pad(dy, ((0, below), (0, right), (0, 0))), tiles)
    dx = _to_nodes_transposed(jnp.einsum("nto,nco->ntc", dm, u), tiles)
    du = jnp.einsum("ntc,nto->nco", v, dm).reshape(_NODES, _NODES, *u.shape[1:])
    dkernel = _separable(_G.T, du)
    return fold(dx, (1, 1), padding, _extra(dy.shape)), dkernel


winograd.defvjp(_winograd_forward, _winograd_backward)
