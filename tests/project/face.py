# pyright: strict
"""Every public name in use, for pyright in strict mode (`make lint`); it is never run."""

import numpy as np

import odeae

# spectra
spectrum = odeae.Spectrum.spiked([1.0, 0.6, 0.3], dim=1000, bulk=1.0)
others = [
    odeae.Spectrum.from_eigenvalues(np.ones(8), spikes=1, bins=2),
    odeae.Spectrum.from_covariance(np.eye(4), spikes=1),
    odeae.Spectrum.from_data(np.zeros((40, 4))),
    odeae.Spectrum.power_law(100, 1.2, variance=2.0),
    odeae.Spectrum.marchenko_pastur(100, 400, spikes=[1.0]),
]
print(spectrum.dim, spectrum.trace, spectrum.pca_error(2), spectrum.pca_errors(3), spectrum.plot())
print(spectrum.eigenvalues(), spectrum.basis, spectrum.mean)
# networks, rules, schedules
activations: list[odeae.AbstractActivation] = [
    odeae.Erf(),
    odeae.ReLU(),
    odeae.Linear(),
    odeae.Quadrature(np.tanh, scale=1.0),
]
averages = activations[0].averages(np.eye(2))
print(averages.G, averages.c)
cov = [[1.0, 0.5], [0.5, 1.0]]
print(odeae.I2("erf", cov), odeae.J2("erf", cov), odeae.I21("erf", cov), odeae.I22("erf", cov))
print(odeae.I3(odeae.Erf(), np.eye(3)), odeae.bvn_cdf(0.0, 0.0, 0.5))
schedules: list[odeae.AbstractSchedule] = [
    odeae.CosineSchedule(20.0),
    odeae.StepSchedule([1.0], [0.1]),
    odeae.PowerLawSchedule(0.5, 1.0),
]
rules: list[odeae.AbstractRule] = [
    odeae.SGD(lr=1.0, weight_decay=0.1, schedule=schedules[0]),
    odeae.Oja(),
    odeae.Sanger(),
    odeae.Hebb(weight_decay=2.0),
    odeae.SGD(truncated=True, lr_encoder=0.5),
]
network = odeae.Autoencoder(3, "erf", bias=True)
problem = odeae.Problem(spectrum, network, rules[0], noise=0.5)
# states
state = odeae.random_state(problem, encoder_std=0.1, seed=1)
aligned = odeae.aligned_state(problem, 0.1, decoder=[0.1, 0.2, 0.3])
weights: odeae.Weights = odeae.draw_weights(problem, state, seed=1)
again = odeae.state_from_weights(problem, weights.encoder, weights.decoder, bias=weights.bias)
modes: odeae.Modes = state.spikes
parameters: odeae.OrderParameters = problem.order_parameters(state)
print(modes.encoder, parameters.total(), problem.error(state), problem.drift(again), aligned)
print(odeae.State, odeae.Densities, odeae.Checkpoint)
# curves
times = odeae.log_times(200, 60, dim=1000)
theory = odeae.predict(problem, state, times, solver=odeae.Rodas4())
runs = odeae.simulate(problem, state, times, runs=2)
curves = odeae.ensemble(problem, times, members=4)
reduced: odeae.AlignedTrajectory = odeae.predict_aligned(problem, times)
trajectory: odeae.Trajectory = theory
print(runs[0].stats, len(runs), [run.ok for run in curves], reduced.encoder)
print(theory.error, theory.excess, theory.Q1, theory.final, theory.overlaps, reduced.error)
print(odeae.Status(int(theory.status)).name, theory.ok, theory.plot(), theory.to_xarray())
comparison: odeae.Comparison = odeae.compare(theory, runs)
print(comparison.plot(), comparison.agrees, odeae.finite_size(problem), odeae.RegimeWarning)
theory.save("a.nc", overwrite=True)
odeae.save_all("b.nc", {"theory": theory, "runs": runs}, overwrite=True)
print(odeae.load("a.nc"))
# analysis
plateaus: tuple[odeae.Plateau, ...] = odeae.plateaus(theory)
law: odeae.PowerLaw = odeae.fit_power_law(theory, "excess", start=10.0)
slopes: odeae.LocalSlopes = odeae.local_slopes(times, theory.excess)
maps: odeae.ModeDynamics = odeae.mode_map(theory)
estimate = odeae.estimate_mode_map(np.zeros((9, 4)), np.zeros((9, 4)))
print(odeae.mode_map_of_weights(problem, weights), law.exponent, slopes.slopes, estimate.map)
points = odeae.fixed_points(problem, [state])
point: odeae.FixedPoint = points[0]
directions: odeae.Directions = point.directions
print(point.status is odeae.FixedPointStatus.CONVERGED, directions.unstable, plateaus[0].rank)
print(odeae.best_decoder(problem, state), odeae.residual(problem, state))
# plots
axes = odeae.plot(theory, runs, levels=False)
odeae.plot([theory, curves], ax=axes, labels=["a", "b"])
odeae.plot_mode_dynamics(maps, modes=[0, 1])
odeae.plot_plateaus(theory)
odeae.plot_spectrum(spectrum)
print(odeae.neurons(theory), odeae.plot_neurons(theory, shape=(8, 8)))
# sweeps


def build(lr: float) -> tuple[odeae.Problem, odeae.State]:
    """One lane."""
    return odeae.Problem(spectrum, network, odeae.SGD(lr)), state


table = odeae.sweep(build, {"lr": [0.5, 1.0]}, times)
odeae.plot_sweep(table, "lr", mean=["seed"])
print(odeae.open_sweep("a.zarr"), odeae.workers)
# data, linear networks, landscape
patches = odeae.image_patches("folder", size=16)
print(patches.shape, odeae.natural_patches(size=16).shape)
linear = odeae.Problem(spectrum, odeae.Autoencoder(3, "linear"))
exact: odeae.linear.AlignedCurve = odeae.linear.aligned_curve(linear, times, 0.1, 0.1)
mode: odeae.linear.ModeCurve = odeae.linear.mode_curve(times, 1.0, 0.1, 0.1)
print(odeae.linear.decayed_mode_curve(times, 1.0, 0.01, weight_decay=0.5).product, exact.error)
print(odeae.linear.fixed_point(1.0), odeae.linear.equivalent_decay(1.0, 0.1), mode.product)
print(odeae.linear.mode_loss(0.1, 0.1, 1.0), odeae.linear.optimal_rate(1.0))
print(odeae.linear.optimal_rate_ratio(1.0, 0.1))
sigma = np.diag([3.0, 2.0, 1.0])
saddle: odeae.landscape.CriticalPoint = odeae.landscape.critical_point(sigma, [1], 1)
factors: odeae.landscape.Factors = odeae.landscape.critical_weights(sigma, [1], 1)
down: odeae.landscape.Descent = odeae.landscape.descend(sigma, [1], 1, 0.1)
print(odeae.landscape.critical_points(sigma, 2), saddle.loss, down.change)
print(odeae.landscape.reconstruction_loss(factors.A, factors.B, sigma))
print(
    odeae.landscape.flow(factors.A, factors.B, sigma), odeae.landscape.tied_flow(factors.B, sigma)
)
print(odeae.landscape.tied_energy(factors.B), trajectory.stop_time, odeae.__version__, others)
