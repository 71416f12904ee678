"""Every variable of a saved trajectory: its place, dimensions, unit and text."""

from typing import Any, NamedTuple

from odeae.base.status import Status
from odeae.model.autoencoder import Weights
from odeae.model.state import (
    Components,
    Densities,
    ModeDensities,
    Modes,
    OrderParameters,
    OutputOverlaps,
    Overlaps,
    State,
)
from odeae.results.aligned import AlignedTrajectory
from odeae.results.checkpoint import Checkpoint
from odeae.results.trajectory import Trajectory


class _Variable(NamedTuple):
    """Where in a Trajectory a variable of a file stands; its dims without those of a batch."""

    path: str
    dims: tuple[str, ...]
    unit: str
    text: str


OVERLAPS = {
    "Q1": "W Ω Wᵀ/D",
    "R1": "V Ω Wᵀ/D^{3/2}, [k, l] = v_k Ω w_l",
    "T1": "V Ω Vᵀ/D²",
    "T0": "V Vᵀ/D",
    "Q0": "W Wᵀ/D",
}


_ERROR = "variance per input dimension / 2"


def _stored() -> dict[str, _Variable]:
    """All variables that a trajectory is made of: it is saved and loaded by this table alone."""
    pair, mean = ("time", "k", "l"), "of a mode (the mean mode of a bin)"
    rows: dict[str, tuple] = {
        "error": ("error", ("time",), _ERROR, "generalisation error ‖x − x̂‖²/(2D)"),
        "excess": ("above_pca", ("time",), _ERROR, "error above the PCA error of rank K"),
        "test_error": ("test_error", ("time",), _ERROR, "‖x − x̂‖²/(2D) on held-out samples"),
        "bias": ("bias", ("time", "k"), "1", "hidden bias"),
        "status": ("status", (), "1", "how the solve ended"),
        "stop_time": ("stop_time", (), "steps/D", "time that was reached"),
        "steps": ("steps", (), "1", "steps that the solver tried, or that SGD took"),
        "aligned_encoder": ("encoder", ("time", "k"), "1", "α_k, entry of w_k on its spike"),
        "aligned_decoder": ("decoder", ("time", "k"), "1", "β_k, entry of u_k on its spike"),
    }
    for part, mode, row in (("spikes", "spike", "spike"), ("bulk", "bin", "row")):
        where = f"order_parameters.{part}"
        for name, text in OVERLAPS.items():
            rows[f"{name}_{part}"] = (f"{where}.{name}", pair, "1", f"{text}, {part}")
        for name, dim, text in (
            ("R1", "k", "v_0 Ω w_k/D^{3/2}"),
            ("T1", "k_and_output", "v_0 Ω v_k/D², last: v_0 Ω v_0/D²"),
            ("T0", "k_and_output", "v_0·v_k/D, last: |v_0|²/D"),
        ):
            own = (f"{where}.output.{name}", ("time", dim), "1", f"{text}, {part}")
            rows[f"output_{name}_{part}"] = own
        for name, text in (("q", "w wᵀ"), ("r", "u wᵀ"), ("t", "u uᵀ")):
            text, dims = f"density {text} {mean}, u = v/√D, {part}", ("time", mode, "k", "l")
            rows[f"{name}_{part}"] = (f"densities.{part}.{name}", dims, "1", text)
        for when in ("initial", "final"):
            text = f"rows of the {when} state: w = ψ·w_k, u = ψ·v_k/√D and u_0 = ψ·v_0/√D"
            for name in ("encoder", "decoder", "output"):
                dims = (row,) if name == "output" else (row, "k")
                rows[f"{when}_{part}_{name}"] = (f"{when}.{part}.{name}", dims, "1", text)
    for when in ("initial", "final"):
        text = f"Σ w wᵀ that the noise of the steps has added in the {when} state"
        rows[f"{when}_diffusion"] = (f"{when}.diffusion", ("k", "l"), "1", text)
        rows[f"{when}_time"] = (f"{when}.time", (), "steps/D", f"time of the {when} state")
        rows[f"{when}_bias"] = (f"{when}.bias", ("k",), "1", f"hidden biases of the {when} state")
    for name, text in (("encoder", "ψ_i·w_k"), ("decoder", "ψ_i·v_k/√D")):
        text = f"{text}, components by falling eigenvalue"
        dims = ("time", "component", "k")
        rows[f"component_{name}"] = (f"components.{name}", dims, "1", text)
    for name, dims, text in (
        ("encoder", ("k", "mode"), "entries of W at the end"),
        ("decoder", ("k", "mode"), "entries of V at the end"),
        ("output_bias", ("mode",), "entries of the output bias v_0 at the end"),
        ("bias", ("k",), "hidden biases at the end"),
    ):
        rows[f"weights_{name}"] = (f"weights.weights.{name}", dims, "1", text)
    for name, dims, unit, text in (
        ("spikes", ("spike",), "variance/D", "scaled eigenvalue ρ/D of each spike"),
        ("bulk", ("bin",), "variance", "eigenvalue ρ of each bulk bin"),
        ("order", ("mode",), "1", "which eigenvalue, as given, each mode is"),
        ("given", ("mode",), "variance", "eigenvalues ρ as given"),
        ("mean", ("mode",), "√variance", "mean of the inputs"),
        ("basis", ("entry", "mode"), "1", "eigenvectors of the covariance, in columns"),
    ):
        rows[f"spectrum_{name}"] = (f"problem.spectrum.{name}", dims, unit, text)
    return {name: _Variable(*row) for name, row in rows.items()}


STORED = _stored()


# What a file holds besides, for those who read it without odeae.
DERIVED = {
    "time": ("steps/D", "time"),
    "error_clean": (_ERROR, "the same on inputs without the noise"),
    "excess": (_ERROR, "error above the PCA error of rank K"),
    **{name: ("1", text) for name, text in OVERLAPS.items()},
    "overlap_encoder": ("1", "cosine of w_k with principal component i"),
    "overlap_decoder": ("1", "cosine of v_k with principal component i"),
    "within_encoder": ("1", "the same for the part of w_k within the span of the components"),
    "within_decoder": ("1", "the same for the part of v_k within the span of the components"),
    "subspace_encoder": ("1", "share of the first min(K, n) components that W spans"),
    "subspace_decoder": ("1", "share of the first min(K, n) components that V spans"),
    "spectrum_multiplicity": ("1", "modes in each bulk bin"),
    "final_excess": (_ERROR, "error at the last time above the PCA error of rank K"),
}


def attributes(name: str, not_computed: bool = False) -> dict[str, Any]:
    """Return unit and text of a variable, as netCDF and Zarr keep them.

    `not_computed`: whether a `status` of −1 says that nothing was computed yet, as in stores.
    """
    unit, text = STORED[name][2:] if name in STORED else DERIVED[name]
    found: dict[str, Any] = {"units": unit, "long_name": text}
    if name == "status":
        codes = {-1: "not_computed"} if not_computed else {}
        codes |= {int(status): status.name.lower() for status in Status}
        found |= {"flag_values": list(codes), "flag_meanings": " ".join(codes.values())}
    return found


# Which class the parts of a class have; all their other fields are variables or attributes.
_OF_A_CURVE: dict[str, type] = {
    "order_parameters": OrderParameters,
    "densities": Densities,
    "components": Components,
    "weights": Checkpoint,
    "initial": State,
    "final": State,
}
PARTS: dict[type, dict[str, type]] = {
    Trajectory: _OF_A_CURVE,
    AlignedTrajectory: _OF_A_CURVE,
    OrderParameters: {"spikes": Overlaps, "bulk": Overlaps},
    Overlaps: {"output": OutputOverlaps},
    Densities: {"spikes": ModeDensities, "bulk": ModeDensities},
    Checkpoint: {"weights": Weights},
    State: {"spikes": Modes, "bulk": Modes},
}


# The arguments, needed and optional, of classes that are made by a call and not field by field.
ARGUMENTS: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Weights: (("encoder", "decoder", "bias"), ("output_bias",)),
    State: (("spikes", "bulk", "bias"), ("diffusion", "time")),
}
