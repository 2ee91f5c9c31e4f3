"""PyTorch models: chains inside them, curvature of any model, weights, Jacobian paths, and flatness during training."""

from flatcore.torch._hessian import Hessian

__all__ = ["Hessian"]
