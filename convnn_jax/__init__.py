"""Attention mechanisms in vision, in JAX and Flax linen."""

__version__ = "0.1.0"
