"""Plan, train, evaluate and run U-Nets as standard MONAI bundles."""

__version__ = "0.1.0"
