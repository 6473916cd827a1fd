"""Stopping rules, one per file. Each is composed with the estimator from outside."""

from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.emv import emv
from dip_jax.stopping.fixed import fixed
from dip_jax.stopping.held_out import held_out
from dip_jax.stopping.rules import build_stopper
from dip_jax.stopping.sure import sure
from dip_jax.stopping.wmv import wmv

__all__ = ["build_stopper", "discrepancy", "emv", "fixed", "held_out", "sure", "wmv"]
