"""Drift: whether what a camera sees still looks like what its release was proven on. Values in, decisions out.

Three measures, all on random audit images, so that neither triage nor an operator's choice moves them:
- low_score: share of images below the camera's own threshold;
- class_mix: the model's classes, total variation distance;
- embedding: energy distance (Székely and Rizzo 2004) of embeddings, on the first principal components of the
  reference: fewer dimensions, then a test of two samples (Rabanser et al. 2019, arXiv:1810.11953).

Each has a permutation p-value, (b + 1) / (m + 1) (Phipson and Smyth 2010). A block of `DriftSettings.block` images is
tested once, when it is full, and an alarm is given where Holm's procedure (1979) over the three measures finds any at
the level `false_alarm`. So a camera where nothing changed raises a false alarm in at most that share of its blocks:
at .01, an audit of 1 % and blocks of 50 in one of 500,000 frames. A fleet of 100 such cameras has one in every 5,000
frames each; lower the level where that is too often.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Name = Literal["low_score", "class_mix", "embedding"]
PERMUTATIONS = 1999
COMPONENTS = 32


class Basis(msgspec.Struct, frozen=True, kw_only=True):
    """Principal components of embeddings by one backbone: mean [dims] and components [k, dims], float32 bytes."""

    backbone: str
    dims: int
    mean: bytes
    components: bytes

    def project(self, embeddings: Floats) -> Floats:
        """Float32 [n, dims] -> [n, k]."""
        mean, axes = np.frombuffer(self.mean, "<f4"), np.frombuffer(self.components, "<f4").reshape(-1, self.dims)
        return np.asarray((embeddings - mean) @ axes.T, np.float32)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Some images as a model sees them: confidence scores, classes by name, float32 bytes of projections [n, k].

    projections may be of fewer images than the rest: an image that is not embedded yet has none.
    """

    scores: list[float]
    classes: list[str]
    points: bytes = b""
    k: int = 0

    @property
    def projections(self) -> Floats:
        """Float32 [n, k]."""
        return np.frombuffer(self.points, "<f4").reshape(-1, max(1, self.k))


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One measure: its distance, 0 (alike) to 1, and the p-value of chance alone. reference, now: shares that it
    compares, where it has any.
    """

    name: Name
    distance: float
    p: float
    reference: float | None = None
    now: float | None = None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """A block of a camera's audit images against its release's reference.

    own: the reference is of this camera, and not of all the images that the release was proven on. n: images in the
    block. level: the false-alarm rate that was asked for. reason: in words.
    """

    camera: str
    release: int
    n: int
    own: bool
    level: float
    drifted: bool
    measures: list[Measure]
    reason: str


def basis(backbone: str, embeddings: Floats) -> Basis:
    """The first principal components of float32 [n, dims], n at least 2."""
    mean = embeddings.mean(axis=0)
    _, _, axes = np.linalg.svd(embeddings - mean, full_matrices=False)
    axes = axes[: min(COMPONENTS, len(embeddings) - 1)]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return Basis(
        backbone=backbone,
        dims=embeddings.shape[1],
        mean=mean.astype("<f4").tobytes(),
        components=(axes * signs[:, None]).astype("<f4").tobytes(),
    )


def sample(scores: Sequence[float], classes: Sequence[str], projections: Floats) -> Sample:
    """A sample of values; projections float32 [m, k]."""
    points = projections.astype("<f4").tobytes()
    return Sample(scores=list(scores), classes=list(classes), points=points, k=projections.shape[1])


def compare(
    reference: Sample,
    now: Sample,
    *,
    camera: str,
    release: int,
    own: bool,
    low_score: float,
    level: float,
    seed: int = 0,
) -> Drift:
    """Test a block against a reference; both hold at least one image. low_score: the camera's threshold."""
    rng = np.random.default_rng(seed)
    was, low = (sum(one < low_score for one in some.scores) for some in (reference, now))
    n, m = len(now.scores), len(reference.scores)
    distance, p = counts_differ(np.array([was, m - was]), np.array([low, n - low]), rng)
    measures = [Measure(name="low_score", distance=distance, p=p, reference=was / m, now=low / n)]
    names = sorted({*reference.classes, *now.classes})
    mix, before = (np.array([some.classes.count(one) for one in names]) for some in (now, reference))
    distance, p = counts_differ(before, mix, rng)
    measures.append(Measure(name="class_mix", distance=distance, p=p))
    if len(reference.projections) > 1 and len(now.projections) > 1:
        distance, p = points_differ(reference.projections, now.projections, rng)
        measures.append(Measure(name="embedding", distance=distance, p=p))
    guilty = holm([one.p for one in measures], level)
    return Drift(
        camera=camera,
        release=release,
        n=n,
        own=own,
        level=level,
        drifted=any(guilty),
        measures=measures,
        reason=_reason([one for one, found in zip(measures, guilty, strict=True) if found], n, own),
    )


def drifted(found: Iterable[Drift], releases: Mapping[str, int] | None = None) -> list[Drift]:
    """The cameras whose last look raised an alarm, the surest first: what a policy goes by.

    releases: camera -> the release it runs now; a look at an earlier one does not count then.
    """
    alarms = [one for one in found if one.drifted and (releases is None or releases.get(one.camera) == one.release)]
    return sorted(alarms, key=lambda one: (min(measure.p for measure in one.measures), one.camera))


def counts_differ(
    reference: NDArray[np.int64], now: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float]:
    """Total variation distance of two tables of counts [classes], and its permutation p-value."""
    pool, size = reference + now, int(now.sum())

    def distance(counts: NDArray[np.int64]) -> Doubles:
        rest = pool - counts
        return np.asarray(np.abs(counts / size - rest / rest.sum(axis=-1, keepdims=True)).sum(axis=-1) / 2)

    seen = float(distance(now))
    drawn = distance(rng.multivariate_hypergeometric(pool, size, size=PERMUTATIONS))
    return seen, _p(seen, drawn)


def points_differ(reference: Floats, now: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Energy distance of two samples [n, k] and [m, k], scaled to 0..1 as the coefficient of inhomogeneity, and its
    permutation p-value.
    """
    points = np.concatenate([reference, now]).astype(np.float64)
    squares = (points**2).sum(axis=1)
    far = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    n, m = len(now), len(reference)
    first = np.zeros((PERMUTATIONS + 1, len(points)), bool)
    first[:, m:] = True
    chosen = rng.permuted(first, axis=1).T
    chosen[:, 0] = first[0]
    inside = np.einsum("ij,ij->j", far @ chosen.astype(np.float64), chosen)
    between = far.sum(axis=1) @ chosen - inside
    outside = far.sum() - 2 * between - inside
    across = 2 * between / (n * m)
    energy = across - inside / n**2 - outside / m**2
    return float(max(0.0, energy[0] / across[0])) if across[0] > 0 else 0.0, _p(float(energy[0]), energy[1:])


def holm(ps: Sequence[float], level: float) -> list[bool]:
    """Which of some p-values Holm's procedure finds at a level: the chance of any false one is at most that."""
    found = [False] * len(ps)
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda one: ps[one])):
        if ps[index] > level / (len(ps) - rank):
            break
        found[index] = True
    return found


def _p(seen: float, drawn: Doubles) -> float:
    return float((1 + np.count_nonzero(drawn >= seen - 1e-12)) / (1 + len(drawn)))


def _reason(guilty: Sequence[Measure], n: int, own: bool) -> str:
    base = "the same camera before this release" if own else "the images this release was proven on"
    if not guilty:
        return f"{n} audit images look like those of {base}"
    words = []
    for one in guilty:
        match one.name:
            case "low_score":
                words.append(f"{one.now:.0%} of the scores are low instead of {one.reference:.0%}")
            case "class_mix":
                words.append(f"{one.distance:.0%} of the classes shifted")
            case "embedding":
                words.append("the images look different")
    return f"{n} audit images differ from {base}: {', '.join(words)} (p {min(one.p for one in guilty):.2g})"
