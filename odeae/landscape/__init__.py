"""The landscape of linear autoencoders: critical points, ways down from saddles, gradient flows.

The network is x̂ = A B x with decoder A (D, d) and encoder B (d, D), the loss
L = tr (I − AB) Σ (I − AB)ᵀ for inputs of covariance Σ. The loss has no factor ½ (as in Baldi &
Hornik 1989): in the package's units, Σ = Ω/D, B = W and A = Vᵀ/√D, the error e is L/2. Learning
curves in closed form are in `odeae.linear`.

Components are counted from 0 at the largest eigenvalue. Source: docs/theory.md 7.
"""

from odeae.landscape.critical import CriticalPoint as CriticalPoint
from odeae.landscape.critical import Descent as Descent
from odeae.landscape.critical import critical_point as critical_point
from odeae.landscape.critical import critical_points as critical_points
from odeae.landscape.critical import critical_weights as critical_weights
from odeae.landscape.critical import descend as descend
from odeae.landscape.flows import Factors as Factors
from odeae.landscape.flows import flow as flow
from odeae.landscape.flows import reconstruction_loss as reconstruction_loss
from odeae.landscape.flows import tied_energy as tied_energy
from odeae.landscape.flows import tied_flow as tied_flow
