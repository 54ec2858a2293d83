"""Meta-learning as one differentiable dynamical system."""

__version__ = "0.1.0"
