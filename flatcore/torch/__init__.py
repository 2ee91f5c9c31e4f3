"""PyTorch models: chains inside them, curvature of any model, weights, Jacobian paths, and flatness during training."""
