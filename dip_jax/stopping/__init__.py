"""Stopping rules, one per file. Each is composed with the fit from outside.

A stopping rule is a `base.Stopper`: pure functions that run inside the compiled chunk. In each step
it gets the `Info` of the fit, never the reference, and decides whether the estimate of this step is
the best so far (the caller then keeps it) and whether the fit is done. It may hide part of the
measurement from the fit. A rule of your own is a condition (`stop_when`), a signal whose minimum
counts (`stop_at_minimum`), or a `Stopper`.
"""

from dip_jax.stopping.compare import compare_rules
from dip_jax.stopping.condition import stop_when
from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.emv import emv
from dip_jax.stopping.fixed import fixed, view_all
from dip_jax.stopping.held_out import held_out, hold_out_from_sampler
from dip_jax.stopping.keep import keep
from dip_jax.stopping.minimum import stop_at_minimum
from dip_jax.stopping.sure import sure
from dip_jax.stopping.wmv import wmv

__all__ = [
    "compare_rules",
    "discrepancy",
    "emv",
    "fixed",
    "held_out",
    "hold_out_from_sampler",
    "keep",
    "stop_at_minimum",
    "stop_when",
    "sure",
    "view_all",
    "wmv",
]
