"""Random problems for `fuzz.py`: numbers over many decades in some fifty shapes.

A shape is what JAX compiles for, and that takes seconds; numbers cost nothing. So a number of the
fuzz run stands for a shape, shared by its whole block, and for numbers that it draws itself.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import odeae

TIMES = 24  # of every curve: their number is part of what is compiled
BLOCK = 64  # numbers of one shape, and of the same times
LINEAR_RULES = ("oja", "sanger", "hebb")


class Shape(NamedTuple):
    """What is compiled. `bins`: modes of each bin of the bulk, 0 for any number that is wide."""

    hidden: int
    spikes: int
    bins: tuple[int, ...] = (0,)
    activation: str = "erf"
    tied: bool = False
    bias: bool = False
    output_bias: bool = False
    rule: str = "sgd"  # also truncated; encoder, decoder: one path alone; oja, sanger, hebb
    schedule: str | None = None  # power, step, cosine

    @property
    def width(self) -> int:
        return self.hidden * (1 if self.tied else 2) + self.output_bias

    @property
    def name(self) -> str:
        flags = [name for name in ("tied", "bias", "output_bias") if getattr(self, name)]
        parts = [self.activation, f"K={self.hidden}", f"M={self.spikes}", f"bins={self.bins}"]
        return " ".join([*parts, *flags, self.rule, self.schedule or ""]).strip()


def _tied(hidden, spikes, activation="linear", rule="sgd", **more):
    return Shape(hidden, spikes, more.pop("bins", (0,)), activation, True, rule=rule, **more)


# The first few are those of the quick size, and as unlike each other as a few can be.
SHAPES = [
    Shape(2, 2),
    _tied(2, 3),
    Shape(1, 1, activation="relu", bias=True),
    Shape(2, 2, activation="linear", schedule="power"),
    Shape(2, 2, schedule="step"),
    Shape(1, 1, activation="tanh"),
    Shape(1, 0),
    Shape(1, 1),
    Shape(3, 3),
    Shape(3, 1),
    Shape(2, 4, (0, 0)),
    Shape(2, 2, ()),
    Shape(3, 3, (2,)),
    Shape(2, 3, rule="truncated"),
    Shape(2, 2, bias=True),
    Shape(2, 2, output_bias=True),
    Shape(2, 1, bias=True, output_bias=True),
    Shape(2, 2, schedule="power"),
    _tied(2, 2, "erf"),
    _tied(2, 2, "erf", "encoder"),
    _tied(1, 2, "erf", "decoder", bias=True),
    _tied(2, 1, "erf", output_bias=True, schedule="power"),
    Shape(2, 2, activation="relu"),
    Shape(3, 2, activation="relu"),
    Shape(2, 2, (), activation="relu", rule="truncated"),
    Shape(2, 2, activation="relu", output_bias=True),
    _tied(2, 2, "relu"),
    _tied(1, 1, "relu", "encoder", bias=True, output_bias=True),
    Shape(2, 2, activation="linear"),
    Shape(3, 4, (), activation="linear"),
    Shape(3, 2, activation="linear", rule="truncated"),
    Shape(2, 3, activation="linear", output_bias=True),
    _tied(3, 3),
    _tied(2, 2, rule="encoder"),
    _tied(2, 2, rule="decoder"),
    _tied(2, 2, rule="oja"),
    _tied(3, 3, rule="sanger"),
    _tied(2, 3, rule="sanger", schedule="power"),
    _tied(2, 2, rule="hebb"),
    Shape(1, 2, (), activation="linear"),
    # From here on, problems that are solved one after another.
    Shape(2, 2, activation="linear", schedule="step"),
    _tied(2, 2, rule="oja", schedule="step"),
    Shape(1, 1, activation="relu", bias=True, schedule="step"),
    Shape(2, 2, schedule="cosine"),
    _tied(2, 3, rule="sanger", schedule="cosine"),
    Shape(2, 1, activation="tanh", bias=True),
    Shape(1, 2, activation="gelu"),
    _tied(2, 2, "gelu"),
]


@dataclass
class Configuration:
    """One problem, its start, its times: plain numbers, so that it can be printed as a script."""

    shape: Shape
    spikes: list[float]
    bulk: list[float]
    multiplicity: list[int]
    rates: dict[str, float]
    weight_decay: float
    noise: float
    gain: float
    schedule: tuple | None
    start: str
    encoder: Any
    decoder: Any
    bias: Any
    seed: int
    times: list[float]
    rtol: float

    def source(self) -> list[str]:
        """Lines that make problem, state and times."""
        s, flags = self.shape, ""
        for name in ("tied", "bias", "output_bias"):
            flags += f", {name}=True" if getattr(s, name) else ""
        flags += f", gain={self.gain!r}" if self.gain != 1.0 else ""
        rates = "".join(f"{name}={value!r}, " for name, value in self.rates.items())
        rates += f"weight_decay={self.weight_decay!r}, schedule=schedule"
        kind = s.rule.capitalize() if s.rule in LINEAR_RULES else "SGD"
        rates += ", truncated=True" if s.rule == "truncated" else ""
        rates += f", gradient={s.rule!r}" if s.rule in ("encoder", "decoder") else ""
        kinds = {"power": "PowerLawSchedule", "step": "StepSchedule", "cosine": "CosineSchedule"}
        schedule = "None"
        if s.schedule is not None:
            given = ", ".join(map(repr, self.schedule))
            schedule = f"odeae.{kinds[s.schedule]}({given})"
        encoder = "" if s.tied else f"{self.encoder!r}, "
        if self.start == "weights":
            shape = f"({s.hidden}, {self.dim})"
            state = (
                f"rng = np.random.default_rng({self.seed}); W, V = rng.standard_normal((2, "
                f"*{shape})); state = odeae.state_from_weights(problem, "
                f"{'None' if s.tied else f'{self.encoder!r} * W'}, {self.decoder!r} * V"
                f"{f', {self.bias!r}' if s.bias else ''})"
            )
        elif self.start == "aligned":
            state = f"state = odeae.aligned_state(problem, {encoder}decoder={self.decoder!r})"
            state = state.replace("problem, ", f"problem, {'' if s.tied else 'encoder='}", 1)
        else:
            encoder = "" if s.tied else f"encoder_std={self.encoder!r}, "
            bias = f"bias={self.bias!r}, " if s.bias else ""
            state = (
                f"state = odeae.random_state(problem, {encoder}decoder_std={self.decoder!r}, "
                f"{bias}seed={self.seed})"
            )
        return [
            f"spectrum = odeae.Spectrum({self.spikes!r}, {self.bulk!r}, {self.multiplicity!r})",
            f"schedule = {schedule}",
            f"network = odeae.Autoencoder({s.hidden}, {s.activation!r}{flags})",
            f"problem = odeae.Problem(spectrum, network, odeae.{kind}({rates}), {self.noise!r})",
            state,
            f"times = {self.times!r}",
        ]

    @property
    def dim(self) -> int:
        return len(self.spikes) + sum(self.multiplicity)

    def made(self) -> tuple[odeae.Problem, odeae.State, np.ndarray]:
        """Problem, state and times, from the very lines that are printed for a failure."""
        names = {"odeae": odeae, "np": np}
        exec("\n".join(self.source()), names)  # its own lines
        return names["problem"], names["state"], np.asarray(names["times"], float)

    def snippet(self, call: str = "odeae.predict(problem, state, times)") -> str:
        lines = ["import numpy as np, odeae", *self.source()]
        if self.rtol != 1e-6:
            call = call.replace("times)", f"times, rtol={self.rtol!r})")
        return "\n".join([*lines, call])


def _log(rng, low, high):
    return float(10.0 ** rng.uniform(low, high))


def times_of(rng, shape: Shape, longest: float = 9.0) -> np.ndarray:
    """Times of a block: of a few kinds, also with gaps of a last bit, and very long ones."""
    kind = rng.choice(
        ["log", "plateau", "jittered", "late", "gaps", "subnormal", "long", "short"],
        p=[0.37, 0.2, 0.14, 0.06, 0.03, 0.03, 0.09, 0.08],
    )
    end = _log(rng, -1.0, 2.7)
    if kind == "plateau":
        end = _log(rng, 1.5, 3.3)
    if kind == "long":
        end = _log(rng, 3.0, longest)
    if kind == "short":
        end = _log(rng, -8.0, -1.0)
    if kind == "plateau":
        return np.linspace(0.0, end, TIMES)
    if kind == "jittered":
        return np.concatenate([[0.0], np.sort(rng.uniform(0.0, end, TIMES - 1))])
    if kind == "late":
        return np.linspace(0.5 * end, end, TIMES)
    if kind == "gaps":
        times = [0.0, end]
        while len(times) < TIMES:
            times.append(float(np.nextafter(times[-1], np.inf)))
        return np.asarray(times)
    if kind == "subnormal":
        return 5e-324 * np.arange(TIMES)
    return np.concatenate([[0.0], np.geomspace(end * 1e-4, end, TIMES - 1)])


def _spikes(rng, count: int, wild: bool) -> list[float]:
    if count == 0:
        return []
    kind = rng.choice(["tame", "wide", "equal", "pairs", "near", "zero"] if wild else ["tame"])
    tame = np.sort(rng.uniform(0.1, 1.5, count))[::-1]
    if kind == "wide":
        return [_log(rng, -6.0, 3.0) for _ in range(count)]
    if kind == "equal":
        return [float(tame[0])] * count
    if kind == "pairs":
        return [float(tame[i // 2]) for i in range(count)]
    if kind == "near":
        return [float(tame[0] * (1.0 + 1e-13 * i)) for i in range(count)]
    if kind == "zero":
        return [float(x) for x in [*tame[:-1], 0.0]]
    return [float(x) for x in tame]


def _schedule(rng, kind: str | None, times: np.ndarray) -> tuple | None:
    end = float(times[-1])
    if kind == "power":
        return float(rng.choice([0.0, rng.uniform(0.0, 3.0)], p=[0.1, 0.9])), _log(rng, -3.0, 3.0)
    places = [end, 0.5 * end, 2.0 * end, float(times[1]), 0.5 * float(times[1]), end * rng.random()]
    places += [float(times[TIMES // 2]), 1e-9 * end, 5e-324, float(np.nextafter(end, 0.0))]
    places = sorted({x for x in places if x > 0.0})
    if kind == "cosine":
        return float(rng.choice(places)), float(rng.choice([0.0, 1.0, rng.random(), 3.0]))
    if kind == "step":
        jumps = sorted(rng.choice(places, 2, replace=False).tolist()) if len(places) > 1 else []
        jumps = jumps or [1.0, 2.0]
        return jumps, rng.choice([0.0, 0.1, 1.0, 10.0], 2).tolist()
    return None


def draw(rng, shape: Shape, times: np.ndarray, rtol: float = 1e-6, small: int = 0) -> Configuration:
    """Draw the numbers of a configuration; `small` > 0: at that dimension, with tame numbers."""
    # Large starts decay and may regrow, tiny entries leave plateaus: both need tame numbers.
    mood = str(rng.choice(["tame", "wild", "large", "tiny"], p=[0.2, 0.5, 0.15, 0.15]))
    wild = mood == "wild" and not small
    K = shape.hidden

    def sometimes(often: float, value, otherwise):
        return value() if wild and rng.random() < often else otherwise()

    def number(low: float, high: float, tame: float, often: float = 0.3) -> float:
        return sometimes(often, lambda: _log(rng, low, high), lambda: tame)

    start = str(rng.choice(["random", "weights", "aligned", "zero"], p=[0.6, 0.1, 0.25, 0.05]))
    if small and start == "zero":
        start = "random"
    if mood == "tiny" and start != "zero":
        start = "aligned"
    if start == "aligned" and shape.spikes < K:
        start = "random"
    wide = int(_log(rng, 2.0, 12.0))
    if start == "weights":
        wide = 30  # one size: states of weights compile for each
    if small:
        wide = (small - shape.spikes) // max(1, len(shape.bins))
    multiplicity = [m or max(wide, shape.width) for m in shape.bins]
    spikes = _spikes(rng, shape.spikes, wild)
    bulk = []
    for _ in multiplicity:
        value = number(-6.0, 3.0, float(rng.uniform(0.1, 2.0)))
        bulk.append(0.0 if spikes and rng.random() < 0.25 else value)
    if sum(spikes) + sum(bulk) == 0.0:
        spikes, bulk = [1.0] * len(spikes), [1.0] * len(bulk)
    rates = {"lr": number(-3.0, 2.0, float(rng.choice([1.0, 0.3])))}
    if not shape.tied:
        for name in ("lr_encoder", "lr_decoder"):
            frozen = rng.random() < 0.06
            rates[name] = 0.0 if frozen else number(-3.0, 2.0, rates["lr"])
    if shape.bias and shape.rule not in LINEAR_RULES:
        rates["lr_bias"] = number(-3.0, 2.0, float(rng.choice([0.0, 1.0])))
    decay = float(
        rng.choice([0.0, _log(rng, -4.0, -1.0), number(-6.0, 1.0, 0.0)], p=[0.5, 0.3, 0.2])
    )
    noise = 0.0 if rng.random() < 0.6 else number(-6.0, 3.0, float(rng.uniform(0.0, 1.0)))
    plain = shape.rule in LINEAR_RULES or not shape.tied
    gain = 1.0 if plain or rng.random() < 0.5 else _log(rng, -1.5, 1.5)

    def deviation():
        if mood in ("large", "tiny"):
            return (
                _log(rng, 0.0, 1.0) if mood == "large" else _log(rng, -6.0 if small else -20.0, 0.0)
            )
        return sometimes(0.5, lambda: _log(rng, -30.0, 1.0), lambda: _log(rng, -3.0, 0.5))

    if start == "zero":
        encoder = decoder = 0.0
    elif start == "aligned":

        def entries():
            one = [float(rng.choice([-1.0, 1.0])) * deviation() for _ in range(K)]
            return [0.0 if rng.random() < 0.1 else x for x in one]

        decoder = entries()
        encoder = [float(x) for x in decoder] if rng.random() < 0.5 else entries()
    else:
        encoder, decoder = deviation(), deviation()
    bias: Any = 0.0
    if shape.bias and start != "aligned":
        bias = [float(x) for x in rng.normal(0.0, 1.0, K)] if rng.random() < 0.7 else 0.0
    return Configuration(
        shape, spikes, bulk, multiplicity, rates, decay, noise, gain,
        _schedule(rng, shape.schedule, times), "random" if start == "zero" else start,
        encoder, decoder, bias, int(rng.integers(2**31)), times.tolist(), rtol,
    )  # fmt: skip


def shape_of(block: int) -> Shape:
    return SHAPES[block % len(SHAPES)]


def block_of(seed: int, kind: int, block: int) -> list[Configuration]:
    """The configurations of a block: one shape, the same times and tolerance."""
    shape, rng = shape_of(block), np.random.default_rng([seed, kind, block])
    times = times_of(rng, shape)
    rtol = float(rng.choice([1e-6, 1e-3, 1e-9], p=[0.8, 0.1, 0.1]))
    return [
        draw(np.random.default_rng([seed, kind, block, i]), shape, times, rtol)
        for i in range(BLOCK)
    ]


def descends(c: Configuration) -> bool:
    """Whether the error can only fall: a gradient flow, whatever its rates."""
    rule = c.shape.rule
    return c.weight_decay == 0.0 and rule in ("sgd",)


def perturbed(problem: odeae.Problem, state: odeae.State, size: float, seed: int) -> odeae.State:
    """The state with every number moved by a relative `size`."""
    rng, gain = np.random.default_rng(seed), np.asarray(problem.autoencoder.gain)

    def moved(x):
        return None if x is None else x * (1.0 + size * rng.choice([-1.0, 1.0], np.shape(x)))

    def rows(part):
        u = moved(part.decoder)
        w = gain * u if problem.autoencoder.tied else moved(part.encoder)
        return odeae.Modes(w, u, moved(part.output))

    return dataclasses.replace(
        state, spikes=rows(state.spikes), bulk=rows(state.bulk), bias=moved(state.bias)
    )


def with_times(c: Configuration, times) -> Configuration:
    return dataclasses.replace(c, times=list(map(float, times)))
