"""Exact learning curves of shallow non-linear autoencoders, from a covariance spectrum.

`predict` integrates the closed equations of the order parameters of online SGD; `simulate` runs
SGD at finite D in the same normalisation; `compare` states how far they are apart. See README.md.
"""

import lazy_loader

from odeae.base.version import __version__ as __version__

# Each name is loaded when it is first used, so that `odeae --help` doesn't wait for JAX. The list
# of names is the stub beside this file.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
