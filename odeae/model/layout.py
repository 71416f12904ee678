"""How a state lies in the flat vector that a solver integrates."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from odeae.base.precision import Real
from odeae.model.autoencoder import Autoencoder
from odeae.model.state import Modes, State


class Layout(NamedTuple):
    """The one place that knows which numbers a solver integrates, and where each of them lies.

    The encoder rows, the decoder rows, the output bias's row, each (rows, K) or (rows,) in one
    piece, because contiguous matrices are faster; then the hidden biases, where the network trains
    them, and the diffusion (K, K), where it is followed. Tied encoder rows are `gain` times the
    decoder rows and are left out. Lanes, if any, are the last axis of everything.

    Attributes:
        network: Which parts there are.
        n_spikes: How many of the rows are spikes.
        n_rows: How many rows there are.
        diffusion: Whether what the noise of the steps adds is followed.
    """

    network: Autoencoder
    n_spikes: int
    n_rows: int
    diffusion: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers the rows have."""
        return self.n_rows * self.network.width

    def pack(self, state: State) -> Float[Real, "numbers *lanes"]:
        """The flat vector of a state (one leaf is what diffrax is fastest with)."""
        lanes = state.rows.decoder.shape[2:]
        parts = [part.reshape(-1, *lanes) for part in _independent(self.network, state.rows)]
        if self.network.bias:
            parts.append(state.bias)
        if state.diffusion is not None:
            parts.append(state.diffusion.ravel())
        return jnp.concatenate(parts) if len(parts) > 1 else parts[0]

    def unpack(self, y: Float[Real, "numbers *lanes"]) -> State:
        """The state of a flat vector."""
        network, hidden, lanes = self.network, self.network.hidden, y.shape[1:]
        n = self.n_rows * hidden
        count = 1 if network.tied else 2
        matrices = [y[i * n : (i + 1) * n].reshape(-1, hidden, *lanes) for i in range(count)]
        output = y[count * n : self.numbers] if network.output_bias else None
        encoder = network.gain * matrices[0] if network.tied else matrices[0]
        rest = y[self.numbers :]
        # NumPy's zeros where y is NumPy's: `predict` makes its result outside of double precision.
        bias = rest[:hidden] if network.bias else np.zeros((hidden, *lanes))
        added = rest[-(hidden**2) :].reshape(hidden, hidden) if self.diffusion else None
        rows = Modes(encoder, matrices[-1], output)
        return State(rows=rows, n_spikes=self.n_spikes, bias=bias, diffusion=added)


def columns_of(network: Autoencoder, rows: Modes) -> Float[Real, "modes width"]:
    """The independent columns of rows, side by side: w, u (only u if tied) and u_0."""
    parts = [x if x.ndim == 2 else x[:, None] for x in _independent(network, rows)]
    return jnp.concatenate(parts, axis=1)


def rows_of(network: Autoencoder, columns: Float[Real, "modes width"]) -> Modes:
    """The rows with these independent columns."""
    K = network.hidden
    decoder = columns[:, :K] if network.tied else columns[:, K : 2 * K]
    encoder = network.gain * decoder if network.tied else columns[:, :K]
    return Modes(encoder, decoder, columns[:, -1] if network.output_bias else None)


def _independent(network: Autoencoder, rows: Modes) -> list[Real]:
    parts = [rows.decoder] if network.tied else [rows.encoder, rows.decoder]
    return parts if rows.output is None else [*parts, rows.output]
