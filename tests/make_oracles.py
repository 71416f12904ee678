"""Write tests/data/averages.json: 60-digit averages at random, aligned and extreme covariances.

Run `python tests/make_oracles.py` (a minute) after changing the points or the oracles; the tests
recompute a few entries of the table each time.
"""

import json
from pathlib import Path

import numpy as np
import oracles

TABLE = Path(__file__).parent / "data" / "averages.json"
Q_MIN, Q_MAX, B_MAX = 1e-12, 1e6, 10.0


def near_one(rng):
    """A correlation with log-uniform distance 1 … 1e-12 from ±1."""
    return rng.choice([-1, 1]) * (1 - 10 ** rng.uniform(-12, 0))


def bias(rng, q):
    """A bias that is 0, of the size of the field, tiny or anything up to 10."""
    kind = rng.integers(4)
    value = [0.0, np.sqrt(q) * rng.normal(0, 3), 10 ** rng.uniform(-9, 1), rng.uniform(-10, 10)]
    return float(np.clip(rng.choice([-1, 1]) * value[kind], -B_MAX, B_MAX))


def generic(rng):
    """Variances anywhere, independent of each other."""
    q1, q2 = 10 ** rng.uniform(-12, 6, 2)
    return q1, q2, near_one(rng) * np.sqrt(q1 * q2), bias(rng, q1), bias(rng, q2)


def unbiased(rng):
    """As `generic`, the paper's case."""
    return (*generic(rng)[:3], 0.0, 0.0)


def aligning(rng):
    """Two neurons on their way to being one: b2 − r s2 b1/s1 cancels too."""
    q1 = 10 ** rng.uniform(-12, 6)
    q2 = np.clip(q1 * 10 ** rng.uniform(-1, 1), Q_MIN, Q_MAX)
    r = rng.choice([-1, 1]) * (1 - 10 ** rng.uniform(-12, -4))
    ratio = np.sqrt(q2 / q1)
    b1 = np.clip(np.sqrt(q1) * rng.normal(), -1, 1)
    b2 = np.sign(r) * ratio * b1 + np.sqrt(q2) * rng.normal() * rng.choice([0, np.sqrt(1 - r * r)])
    return q1, q2, r * np.sqrt(q1 * q2), b1, float(np.clip(b2, -B_MAX, B_MAX))


def aligned(rng):
    """r = ±1 exactly: roots s of 24 bits, so that s² and s1 s2 are float64 numbers."""
    s1 = float(np.float32(10 ** rng.uniform(-5.9, 2.9)))
    s2 = float(np.float32(np.clip(s1 * 10 ** rng.uniform(-1, 1), 1.1e-6, 999.0)))
    sign = rng.choice([-1, 1])
    b1 = bias(rng, s1 * s1)
    scaled = sign * b1 * s2 / s1  # the same threshold, up to rounding
    b2 = scaled if rng.integers(2) and abs(scaled) <= B_MAX else bias(rng, s2 * s2)
    return s1 * s1, s2 * s2, sign * s1 * s2, b1, b2


def copies(rng):
    """Two identical (or opposite) neurons."""
    q, sign = 10 ** rng.uniform(-12, 6), rng.choice([-1, 1])
    b = bias(rng, q)
    return q, q, sign * q, b, sign * b if rng.integers(2) else bias(rng, q)


def rounded(rng):
    """r = ±1 up to the rounding of q12: on either side of positive semi-definite."""
    q1, q2, q12, b1, b2 = generic(rng)
    return q1, q2, np.sign(q12) * np.sqrt(q1 * q2), b1, b2


def corners():
    """The ends of every range."""
    for q1, q2 in [(Q_MIN, Q_MIN), (Q_MAX, Q_MAX), (Q_MIN, Q_MAX)]:
        for r in (0.0, 1 - 1e-12, -1 + 1e-12, 1.0, -1.0):
            b1, b2 = {0.0: (-B_MAX, B_MAX), 1.0: (B_MAX, B_MAX)}.get(r, (0.0, -B_MAX))
            yield q1, q2, r * (q1 if q1 == q2 else 1e-3), b1, b2


def pairs(rng):
    """All points (q11, q22, q12, b1, b2) of the table."""
    kinds = {generic: 90, unbiased: 35, aligning: 45, aligned: 40, copies: 25, rounded: 25}
    points = list(corners())
    for kind, number in kinds.items():
        points += [kind(rng) for _ in range(number)]
    return [[float(x) for x in point] for point in points]


def bvn_points(rng):
    """Arguments (h, k, r) of Φ2, many with h ≈ ±k where r ≈ ±1."""
    points = [[0.0, 0.0, r] for r in (0.0, 0.5, 1.0, -1.0, 1 - 1e-12)]
    for i in range(245):
        r = rng.uniform(-1, 1) if i % 3 == 0 else near_one(rng)
        r = float(np.sign(r)) if i % 10 == 0 else r
        h = rng.normal(0, 3) * 10.0 ** rng.choice([0, 0, 0, -3, -9, 3])
        k = np.sign(r) * h + np.sqrt(1 - r * r) * rng.normal(0, 2) if i % 2 else rng.normal(0, 3)
        h, k = (0.0 if rng.uniform() < 0.04 else x for x in (h, k))
        points.append([float(h), float(k), float(r)])
    return points


def main():
    """Compute and write the table."""
    rng = np.random.default_rng(20220201)
    table = {"pairs": pairs(rng), "bvn": bvn_points(rng)}
    for name in ("erf", "relu"):
        table[name] = [oracles.averages(name, point) for point in table["pairs"]]
    table["bvn_cdf"] = [float(oracles.bvn_cdf(*point)) for point in table["bvn"]]
    lines = [
        f'"{key}": [\n' + ",\n".join(json.dumps(x, separators=(",", ":")) for x in value) + "\n]"
        for key, value in table.items()
    ]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
