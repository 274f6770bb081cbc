"""Strict numerics for every test: double precision at hand, no silent promotion, shapes checked at run time."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
from hypothesis import settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

HOOK = install_import_hook("eoslib", "beartype.beartype")
