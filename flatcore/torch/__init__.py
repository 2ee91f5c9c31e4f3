"""PyTorch models: chains inside them, curvature of any model, weights, Jacobian paths, and flatness during training."""

from flatcore.torch import _files as _files  # registers the reader of .pt and .pth
from flatcore.torch._chain import Residual, chain
from flatcore.torch._hessian import Hessian
from flatcore.torch._jacobian import jacobian_path
from flatcore.torch._products import products
from flatcore.torch._weights import analyze

__all__ = ["Hessian", "Residual", "analyze", "chain", "jacobian_path", "products"]
