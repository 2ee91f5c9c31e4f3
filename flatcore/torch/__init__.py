"""PyTorch models: chains inside them, curvature of any model, weights, Jacobian paths, and flatness during training."""

from flatcore.torch import _checkpoints as _checkpoints  # registers the opener of .pt, .pth and .bin
from flatcore.torch import _files as _files  # registers the reader of .pt and .pth
from flatcore.torch._chain import Residual, chain
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._device_hessian import DeviceGaussNewton, DeviceHessian
from flatcore.torch._device_reduced import DeviceReduced
from flatcore.torch._hessian import Hessian
from flatcore.torch._jacobian import jacobian_path
from flatcore.torch._monitor import FlatnessMonitor
from flatcore.torch._product_search import Product
from flatcore.torch._products import Products, products
from flatcore.torch._sharpness import sharpness
from flatcore.torch._weights import analyze

__all__ = [
    "DeviceChain",
    "DeviceGaussNewton",
    "DeviceHessian",
    "DeviceReduced",
    "FlatnessMonitor",
    "Hessian",
    "Product",
    "Products",
    "Residual",
    "analyze",
    "chain",
    "jacobian_path",
    "products",
    "sharpness",
]
