"""What one would write today without the package: the yardsticks of the speed benchmarks.

`odeint_numba` is an expert's solver of the reduced equations (docs/theory.md 2 and 4: erf,
untied, no biases; one row per spike, 2K virtual rows for the bulk), `odeint_many` the same for many
curves on all cores; `solve_ivp_numpy` is a typical user's, `vmap_diffrax` a typical JAX user's.
`euler_densities` is the method of the literature: Euler steps of the densities of all D modes.
`numpy_sgd_steps` and `torch_sgd_steps` are the simulation itself, `numpy_normals` its lower bound,
the random numbers. Independent of the package; PyTorch and JAX are imported where used. Run as a
script, it prints error and time by tolerance, and of Euler by step.
"""

import contextlib
import functools
import math
import multiprocessing
import time
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.integrate import odeint, solve_ivp
from scipy.special import erf

SPIKES = (1.0, 0.6, 0.3)


class Curve(NamedTuple):
    """One problem: eigenvalues ρ̃ (N,), rows at t = 0 (N, K), tr Ω/D, rates, weight decay."""

    rho: np.ndarray
    w0: np.ndarray
    u0: np.ndarray
    trace: float
    lr_encoder: float = 1.0
    lr_decoder: float = 1.0
    decay: float = 0.0


def random_start(spikes, bulk, dim, hidden, std, seed):
    """Rows at t = 0 for weights of deviation `std`: spikes (drawn), then 2K rows of the bulk (2).

    Returns rho (N,), w0 and u0 (N, K), and tr Ω/D; N = M + 2K, `bulk` the unscaled eigenvalue.
    """
    rng = np.random.default_rng(seed)
    modes = dim - len(spikes)
    zero, gram_root = np.zeros((hidden, hidden)), std * math.sqrt(modes) * np.eye(hidden)
    drawn_w, drawn_u = std * rng.standard_normal((2, len(spikes), hidden))
    w0 = np.vstack([drawn_w, gram_root, zero])
    u0 = np.vstack([drawn_u, zero, gram_root]) / math.sqrt(dim)
    rho = np.concatenate([spikes, np.full(2 * hidden, bulk / dim)])
    return rho, w0, u0, sum(spikes) + modes * bulk / dim


def all_modes(rho, w0, u0, dim, seed=0):
    """The same start with all D modes: a bulk (D − M, K) that has the Gram matrix of its 2K rows.

    The exact curve stays the same (2).
    """
    virtual = 2 * w0.shape[1]
    spikes = len(rho) - virtual
    normals = np.random.default_rng(seed).standard_normal((dim - spikes, virtual))
    isometry = np.linalg.qr(normals)[0]
    rho = np.concatenate([rho[:spikes], np.full(dim - spikes, rho[spikes])])
    return rho, *(np.vstack([rows[:spikes], isometry @ rows[spikes:]]) for rows in (w0, u0))


@njit(cache=True)
def _overlaps(y, rho, Q, T, R):
    """Lower halves of Q1 and T0, and the diagonal of R1, from rows y = (w, u) of shape (N, 2K)."""
    K = len(R)
    Q[:] = 0.0
    T[:] = 0.0
    R[:] = 0.0
    for n in range(len(rho)):
        row = y[n * 2 * K : (n + 1) * 2 * K]
        for k in range(K):
            R[k] += rho[n] * row[K + k] * row[k]
            for a in range(k + 1):
                Q[k, a] += rho[n] * row[k] * row[a]
                T[k, a] += row[K + k] * row[K + a]


@njit(cache=True)
def _rhs(y, t, rho, lr_w, lr_v, decay, work, dy):
    """4 as dw = ρ̃ (c u + A w), du = ρ̃ c w − G u, with A = diag(2 c_q R − Σ T0 S) − T0 P.

    `work` (6, K, K) and `dy` are scratch: SciPy copies the answer before it calls again.
    """
    Q, T, A, G = work[0], work[1], work[2], work[3]
    R, c = work[4, 0], work[5, 0]
    K = len(R)
    _overlaps(y, rho, Q, T, R)
    for k in range(K):
        c[k] = math.sqrt(2 / (math.pi * (1 + Q[k, k])))
        A[k, k] = -c[k] * R[k] / (1 + Q[k, k])  # 2 c_q R
    for k in range(K):
        for a in range(k + 1):
            q, product = Q[k, a], (1 + Q[k, k]) * (1 + Q[a, a])
            G[k, a] = 2 / math.pi * math.asin(q / math.sqrt(product))
            TP = T[k, a] * 2 / (math.pi * math.sqrt(product - q * q))
            A[k, k] += TP * q / (1 + Q[k, k])  # −T0 S, and its mirror image below
            if a == k:
                A[k, k] -= TP
            else:
                A[a, a] += TP * q / (1 + Q[a, a])
                G[a, k] = G[k, a]
                A[k, a] = A[a, k] = -TP
    for n in range(len(rho)):
        i = n * 2 * K
        for k in range(K):
            dw, du = c[k] * y[i + K + k], rho[n] * c[k] * y[i + k]
            for a in range(K):
                dw += A[k, a] * y[i + a]
                du -= G[k, a] * y[i + K + a]
            dy[i + k] = lr_w * rho[n] * dw - decay * y[i + k]
            dy[i + K + k] = lr_v * du - decay * y[i + K + k]
    return dy


@njit(cache=True)
def _errors(ys, rho, trace, K):
    """e (T,) of 4 at each state of ys (T, 2NK)."""
    Q, T, R, e = np.empty((K, K)), np.empty((K, K)), np.empty(K), np.empty(len(ys))
    for i in range(len(ys)):
        _overlaps(ys[i], rho, Q, T, R)
        e[i] = trace / 2
        for k in range(K):
            e[i] -= math.sqrt(2 / (math.pi * (1 + Q[k, k]))) * R[k]
            for a in range(k + 1):
                G = 2 / math.pi * math.asin(Q[k, a] / math.sqrt((1 + Q[k, k]) * (1 + Q[a, a])))
                e[i] += T[k, a] * G * (0.5 if a == k else 1.0)
    return e


def odeint_numba(
    rho,
    w0,
    u0,
    times,
    lr=1.0,
    decay=0.0,
    rtol=1e-6,
    atol=1e-8,
    *,
    trace,
    lr_encoder=None,
    lr_decoder=None,
):
    """Error (T,) at `times` from rows (N, K) at t = 0: SciPy's `odeint` over a compiled 4."""
    K = w0.shape[1]
    start = np.hstack([w0, u0]).ravel()
    grid = np.concatenate([[0.0], times])
    lr_w, lr_v = (float(lr if own is None else own) for own in (lr_encoder, lr_decoder))
    args = (rho, lr_w, lr_v, float(decay), np.empty((6, K, K)), np.empty_like(start))
    ys = odeint(_rhs, start, grid, args=args, rtol=rtol, atol=atol, mxstep=1_000_000)
    return _errors(ys[1:], rho, trace, K)


def _odeint_curve(curve, times, rtol, atol):
    rho, w0, u0, trace, lr_encoder, lr_decoder, decay = curve
    rates = {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder, "decay": decay}
    return odeint_numba(rho, w0, u0, times, rtol=rtol, atol=atol, trace=trace, **rates)


@contextlib.contextmanager
def odeint_pool(processes=None):
    """Processes (one per core) that have compiled `odeint_numba`; all are ready when it begins."""
    context = multiprocessing.get_context("spawn")
    processes = context.cpu_count() if processes is None else processes
    _warm_up()  # here first: they load what this one has compiled and kept
    ready = context.Barrier(processes + 1)
    with context.Pool(processes, initializer=_warm_up, initargs=(ready,)) as pool:
        ready.wait(timeout=300)
        yield pool


def _warm_up(ready=None):
    curve = Curve(*random_start(SPIKES, 1.0, dim=100, hidden=3, std=0.1, seed=0))
    _odeint_curve(curve, np.array([1.0]), 1e-6, 1e-8)
    if ready is not None:
        ready.wait(timeout=300)


def odeint_many(pool, curves, times, rtol=1e-6, atol=1e-8):
    """Errors (n, T) of a list of `Curve`, over the processes of `odeint_pool`."""
    solve = functools.partial(_odeint_curve, times=times, rtol=rtol, atol=atol)
    return np.array(pool.map(solve, curves, chunksize=max(1, len(curves) // 64)))


def _averages(Q):
    """c (K,), G and P (K, K) of 3, and 1 + q."""
    scale = 1 + np.diag(Q)
    product = np.outer(scale, scale)
    G = 2 / np.pi * np.arcsin(Q / np.sqrt(product))
    return np.sqrt(2 / (np.pi * scale)), G, 2 / np.pi / np.sqrt(product - Q**2), scale


def solve_ivp_numpy(
    rho, w0, u0, times, lr=1.0, decay=0.0, rtol=1e-6, atol=1e-8, *, trace, method="RK45"
):
    """The same curve, in vectorised NumPy under SciPy's `solve_ivp`."""
    rows = rho[:, None]

    def overlaps(w, u):
        return (w * rows).T @ w, np.diag((u * rows).T @ w), u.T @ u

    def rhs(_, y):
        w, u = y.reshape(2, *w0.shape)
        Q, R, T = overlaps(w, u)
        c, G, P, scale = _averages(Q)
        own = -c * R / scale + np.sum(T * P * Q, axis=1) / scale
        dw = rows * (c * u + own * w - w @ (T * P))
        du = rows * c * w - u @ G
        return np.concatenate([(lr * dw - decay * w).ravel(), (lr * du - decay * u).ravel()])

    start = np.concatenate([w0.ravel(), u0.ravel()])
    solution = solve_ivp(
        rhs, (0.0, times[-1]), start, method=method, t_eval=times, rtol=rtol, atol=atol
    )
    errors = []
    for y in solution.y.T:
        Q, R, T = overlaps(*y.reshape(2, *w0.shape))
        c, G, _, _ = _averages(Q)
        errors.append(trace / 2 - c @ R + np.sum(T * G) / 2)
    return np.array(errors)


def euler_densities(rho, w0, u0, times, lr=1.0, decay=0.0, *, trace, dt=None):
    """The same curve from rows (D, K) of all modes, by Euler steps (1/D) of their densities.

    q = w wᵀ, r = u wᵀ and t = u uᵀ, each (K, K, D): every product below is one matrix product.
    Nothing keeps them of rank one, so errors grow and in the end are NaN.
    """
    dt = 1 / len(rho) if dt is None else dt
    w, u = w0.T, u0.T
    q, r, t = (a[:, None] * b[None, :] for a, b in ((w, w), (u, w), (u, u)))
    steps = np.rint(np.asarray(times) / dt).astype(int)
    errors = {}
    with np.errstate(all="ignore"):
        for step in range(steps[-1] + 1):
            Q, R, T = q @ rho, np.diag(r @ rho), t.sum(axis=-1)
            c, G, P, scale = _averages(Q)
            errors[step] = trace / 2 - c @ R + np.sum(T * G) / 2
            A = np.diag(-c * R / scale + np.sum(T * P * Q, axis=1) / scale) - T * P
            dq, dr, dt_ = _density_drift(q, r, t, rho, c, A, G, lr, decay)
            q, r, t = q + dt * dq, r + dt * dr, t + dt * dt_
    return np.array([errors[step] for step in steps])


def _density_drift(q, r, t, rho, c, A, G, lr, decay):
    """Drift of the outer products, without rows.

    dw = η ρ̃ (C u + A w) − κ w and du = η (ρ̃ C w − G u) − κ u, C = diag(c), A = Aᵀ, give
    dq = X + Xᵀ, X = η ρ̃ (C r + A q) − κ q;  dt = Y + Yᵀ, Y = η (ρ̃ C rᵀ − G t) − κ t;
    dr = η (ρ̃ (C q + t C + r A) − G r) − 2κ r.
    """

    def times(matrix, densities):
        return (matrix @ densities.reshape(len(c), -1)).reshape(densities.shape)

    r_T, C = r.swapaxes(0, 1), np.diag(c)
    X = lr * rho * (times(C, r) + times(A, q)) - decay * q
    Y = lr * (rho * times(C, r_T) - times(G, t)) - decay * t
    # (r A)ᵀ = A rᵀ and (t C)ᵀ = C t
    encoder = (times(A, r_T) + times(C, t)).swapaxes(0, 1)
    dr = lr * (rho * (times(C, q) + encoder) - times(G, r)) - 2 * decay * r
    return X + X.swapaxes(0, 1), dr, Y + Y.swapaxes(0, 1)


def vmap_diffrax(curves, times, rtol=1e-6, atol=1e-8):
    """Function without arguments that solves all `curves` at once: errors (n, T).

    A right-hand side in JAX, one diffrax solve with the usual solver and step control, `vmap`,
    `jit`. All curves have the same eigenvalues.
    """
    import diffrax
    import jax
    import jax.numpy as jnp

    def averages(rho, w, u):
        Q, R, T = (w * rho[:, None]).T @ w, jnp.diag((u * rho[:, None]).T @ w), u.T @ u
        scale = 1 + jnp.diag(Q)
        product = jnp.outer(scale, scale)
        G = 2 / jnp.pi * jnp.arcsin(Q / jnp.sqrt(product))
        P = 2 / jnp.pi / jnp.sqrt(product - Q**2)
        return jnp.sqrt(2 / (jnp.pi * scale)), G, P, Q, R, T

    def rhs(_, y, args):
        (w, u), (rho, lr_encoder, lr_decoder, decay) = y, args
        c, G, P, Q, R, T = averages(rho, w, u)
        scale = 1 + jnp.diag(Q)
        own = -c * R / scale + jnp.sum(T * P * Q, axis=1) / scale
        dw = rho[:, None] * (c * u + own * w - w @ (T * P))
        du = rho[:, None] * c * w - u @ G
        return lr_encoder * dw - decay * w, lr_decoder * du - decay * u

    def error(rho, trace, w, u):
        c, G, _, _, R, T = averages(rho, w, u)
        return trace / 2 - c @ R + jnp.sum(T * G) / 2

    def solve(rho, w0, u0, trace, *rates):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(rhs),
            diffrax.Tsit5(),
            t0=0.0,
            t1=times[-1],
            dt0=None,
            y0=(w0, u0),
            args=(rho, *rates),
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=100_000,
        )
        return jax.vmap(functools.partial(error, rho, trace))(*solution.ys)

    batched = jax.jit(jax.vmap(solve))
    columns = Curve(*(np.array(column, float) for column in zip(*curves, strict=True)))

    def run():
        with jax.enable_x64(True):
            return np.asarray(batched(*columns))

    return run


def numpy_sgd_steps(D, K, steps, seed):
    """`steps` of the SGD of 1 (erf, rate 1, no biases) on fresh samples; returns W, V (K, D)."""
    rng = np.random.default_rng(seed)
    root = np.ones(D)
    root[: len(SPIKES)] = np.sqrt(D * np.array(SPIKES))
    W, V = 0.1 * rng.standard_normal((2, K, D))
    for _ in range(steps):
        x = root * rng.standard_normal(D)
        field = W @ x / math.sqrt(D)
        g = erf(field / math.sqrt(2))
        delta = x - g @ V
        slope = math.sqrt(2 / math.pi) * np.exp(-(field**2) / 2)
        back = (V @ delta / D) * slope
        V += np.outer(g / D, delta)
        W += np.outer(back / (D * math.sqrt(D)), x)
    return W, V


def torch_sgd_steps(D, K, steps, seed, threads=None):
    """The same SGD as written in PyTorch: float64, gradients by autograd, a rate for each matrix.

    `threads`: of PyTorch, its own number if None.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    torch.manual_seed(seed)
    root = torch.ones(D, dtype=torch.float64)
    root[: len(SPIKES)] = torch.sqrt(D * torch.tensor(SPIKES, dtype=torch.float64))
    W, V = 0.1 * torch.randn(2, K, D, dtype=torch.float64)
    W, V = W.requires_grad_(), V.requires_grad_()
    for _ in range(steps):
        x = root * torch.randn(D, dtype=torch.float64)
        output = torch.erf(W @ x / math.sqrt(2 * D)) @ V
        loss = (x - output).square().sum() / (2 * D)
        grad_W, grad_V = torch.autograd.grad(loss, (W, V))
        with torch.no_grad():
            W -= grad_W / D
            V -= grad_V
    torch.set_num_threads(before)
    return W.detach().numpy(), V.detach().numpy()


def numpy_normals(D, steps, seed):
    """Only the D normals of each of `steps` samples: no SGD in NumPy can be faster than this."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.standard_normal(D)
    return x


def _best_time(run, repeats=7):
    laps = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        laps.append(time.perf_counter() - begin)
    return min(laps)


def report_euler(rho, w0, u0, trace, dim):
    """Error of Euler on densities by step at small t (of first order), and by t at dt = 1/D."""
    modes = all_modes(rho, w0, u0, dim)
    times = np.arange(1.0, 21.0)
    exact = solve_ivp_numpy(rho, w0, u0, times, trace=trace, rtol=1e-12, atol=1e-15)
    for part in (1, 2, 4):
        gap = euler_densities(*modes, times[:2], trace=trace, dt=1 / (part * dim)) - exact[:2]
        print(f"Euler, dt = 1/{part * dim}: error {gap[0]:+.3e} at t = 1, {gap[1]:+.3e} at t = 2")
    begin = time.perf_counter()
    gap = np.abs(euler_densities(*modes, times, trace=trace) - exact)
    per_unit = (time.perf_counter() - begin) / times[-1]
    growth = ", ".join(f"{gap[t - 1]:.1e} at t = {t}" for t in (5, 10, 12, 15, 20))
    print(f"Euler, dt = 1/{dim}: error {growth}; {per_unit:.3f} s per unit of t", flush=True)


def main():
    """Largest error of e over 200 times up to t = 200, and wall time, by solver and tolerance."""
    rho, w0, u0, trace = random_start(SPIKES, 1.0, dim=1000, hidden=3, std=0.1, seed=0)
    times = np.geomspace(1e-2, 200.0, 200)
    problem = (rho, w0, u0, times)
    exact = solve_ivp_numpy(*problem, trace=trace, rtol=1e-13, atol=1e-15, method="DOP853")
    solvers = {
        "odeint + Numba": odeint_numba,
        "solve_ivp RK45": solve_ivp_numpy,
        "solve_ivp DOP853": lambda *p, **kw: solve_ivp_numpy(*p, method="DOP853", **kw),
    }
    print(f"{'solver':18}{'rtol':>8}{'atol':>8}{'max error':>12}{'ms':>9}")
    for name, solver in solvers.items():
        for rtol in (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10):
            for atol in (rtol, rtol * 1e-2):
                options = {"trace": trace, "rtol": rtol, "atol": atol}
                gap = np.abs(solver(*problem, **options) - exact).max()
                elapsed = 1e3 * _best_time(lambda f=solver, o=options: f(*problem, **o))
                print(f"{name:18}{rtol:8.0e}{atol:8.0e}{gap:12.1e}{elapsed:9.2f}", flush=True)
    report_euler(rho, w0, u0, trace, dim=1000)
    for D in (1_000, 10_000):
        sgd = _best_time(lambda D=D: numpy_sgd_steps(D, 3, 500, 0), 3) / 500
        normals = _best_time(lambda D=D: numpy_normals(D, 500, 0), 3) / 500
        print(f"D = {D}: {1e6 * sgd:.1f} us per SGD step, {1e6 * normals:.1f} us for its normals")


if __name__ == "__main__":
    main()
