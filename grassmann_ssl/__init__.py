"""Self-supervised learning on the Grassmann manifold: train with and without the constraint, compare with theory."""

import warnings

with warnings.catch_warnings():
    # geoopt decorates its maths with torch.jit.script, which newer torch deprecates: 73 warnings that users cannot act on.
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=DeprecationWarning)
    import geoopt as _geoopt  # noqa: F401

__version__ = "0.1.0"
