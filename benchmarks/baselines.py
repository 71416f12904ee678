"""What one would write today without the package: the yardsticks of the speed benchmarks.

`odeint_numba` is an expert's solver of the reduced equations (docs/theory.md §2 and §4: erf,
untied, no biases; one row per spike, 2K virtual rows for the bulk), `solve_ivp_numpy` a typical
user's; `numpy_sgd_steps` is the simulation itself, and `numpy_normals` its lower bound, the random
numbers. Independent of the package. Run as a script, it prints error and time by tolerance.
"""

import math
import time

import numpy as np
from numba import njit
from scipy.integrate import odeint, solve_ivp
from scipy.special import erf

SPIKES = (1.0, 0.6, 0.3)


def random_start(spikes, bulk, dim, hidden, std, seed):
    """Rows at t = 0 for weights of deviation `std`: spikes (drawn), then 2K rows of the bulk (§2).

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
def _rhs(y, t, rho, lr, decay, work, dy):
    """§4 as dw = ρ̃ (c u + A w), du = ρ̃ c w − G u, with A = diag(2 c_q R − Σ T0 S) − T0 P.

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
            dy[i + k] = lr * rho[n] * dw - decay * y[i + k]
            dy[i + K + k] = lr * du - decay * y[i + K + k]
    return dy


@njit(cache=True)
def _errors(ys, rho, trace, K):
    """e (T,) of §4 at each state of ys (T, 2NK)."""
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


def odeint_numba(rho, w0, u0, times, lr=1.0, decay=0.0, rtol=1e-6, atol=1e-8, *, trace):
    """Error (T,) at `times` from rows (N, K) at t = 0: SciPy's `odeint` over a compiled §4."""
    K = w0.shape[1]
    start = np.hstack([w0, u0]).ravel()
    grid = np.concatenate([[0.0], times])
    args = (rho, float(lr), float(decay), np.empty((6, K, K)), np.empty_like(start))
    ys = odeint(_rhs, start, grid, args=args, rtol=rtol, atol=atol, mxstep=1_000_000)
    return _errors(ys[1:], rho, trace, K)


def _averages(rho, w, u):
    """c (K,), G and P (K, K), and Q1, R1, T0 of §2 and §3."""
    Q, R, T = (w * rho[:, None]).T @ w, (u * rho[:, None]).T @ w, u.T @ u
    scale = 1 + np.diag(Q)
    product = np.outer(scale, scale)
    c = np.sqrt(2 / (np.pi * scale))
    G = 2 / np.pi * np.arcsin(Q / np.sqrt(product))
    return c, G, 2 / np.pi / np.sqrt(product - Q**2), Q, np.diag(R), T


def solve_ivp_numpy(
    rho, w0, u0, times, lr=1.0, decay=0.0, rtol=1e-6, atol=1e-8, *, trace, method="RK45"
):
    """The same curve, in vectorised NumPy under SciPy's `solve_ivp`."""
    rows = rho[:, None]

    def rhs(_, y):
        w, u = y.reshape(2, *w0.shape)
        c, G, P, Q, R, T = _averages(rho, w, u)
        scale = 1 + np.diag(Q)
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
        c, G, _, _, R, T = _averages(rho, *y.reshape(2, *w0.shape))
        errors.append(trace / 2 - c @ R + np.sum(T * G) / 2)
    return np.array(errors)


def numpy_sgd_steps(D, K, steps, seed):
    """`steps` of the SGD of §1 (erf, rate 1, no biases) on fresh samples; returns W, V (K, D)."""
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
    for D in (1_000, 10_000):
        sgd = _best_time(lambda D=D: numpy_sgd_steps(D, 3, 500, 0), 3) / 500
        normals = _best_time(lambda D=D: numpy_normals(D, 500, 0), 3) / 500
        print(f"D = {D}: {1e6 * sgd:.1f} us per SGD step, {1e6 * normals:.1f} us for its normals")


if __name__ == "__main__":
    main()
