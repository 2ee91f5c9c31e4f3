"""Eigenpairs and singular triplets, with what is known of those not found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flatcore.results.frame import Rows
from flatcore.results.record import Array, Record, number, numbers


@dataclass(frozen=True, repr=False)
class Certificate(Record):
    """What is known about eigenvalues that were not found.

    With probability at least 1 − ``probability`` no missed eigenvalue lies more than ``delta`` beyond the last value
    returned. ``method`` is ``"dense"`` (all were computed; delta is 0 but where small ones count as zeros, or are known
    to the rounding of their squares) or ``"probe"``: a random block of ``block`` vectors, ``steps`` block steps in the
    complement of what was found.
    """

    method: str
    delta: float
    probability: float
    steps: int
    block: int
    hits: int  # missed eigenvalues that probes found, since merged

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "method", self.method
        yield "nothing missed beyond", f"{number(self.delta, 3)} (but with probability {self.probability:g})"
        yield "probe", f"{self.steps} steps of {self.block} vectors, {self.hits} hits merged"


@dataclass(frozen=True)
class SolverState:
    """What a solver's callback sees after each step."""

    iteration: int
    values: Array
    residuals: Array  # estimates from the recurrence
    products: int


@dataclass(frozen=True, repr=False)
class EigenResult(Record):
    """Eigenpairs with true residuals.

    ``values`` (k,); ``residuals`` (k,) are ‖Hv − λv‖ from a fresh product in float64; ``converged`` (k,) says which of
    them reach ``tol`` times the largest modulus of an eigenvalue. ``status`` is converged, precision_limited,
    max_iterations or stopped, and ``message`` says what to do about it. ``values, vectors = result`` unpacks.
    ``explanation``: the predicted costs of the routes considered, the choice, and what was done, for ``explain()``.
    """

    _ROWS = (Rows("pairs", "pair", 0, ("values", "residuals", "converged")),)

    values: Array
    residuals: Array
    converged: Array
    status: str
    message: str
    tol: float
    products: int
    seed: int
    certificate: Certificate | None
    method: str
    _rows: Callable[[], Array] = field(repr=False)
    _split: Callable[[Array], Iterator[Array]] | None = field(repr=False, default=None)
    _layers: Callable[[int], Iterator[Array]] | None = field(repr=False, default=None)
    explanation: tuple[str, ...] = field(repr=False, default=())

    @property
    def vectors(self) -> Array:
        """Eigenvectors as columns, (P, k), built when first asked for."""
        return self._rows().T

    def layers(self, i: int) -> Iterator[Array]:
        """Eigenvector i as blocks shaped like the chain's W_1, b_1, W_2, … or a model's parameters, one at a time."""
        if self._layers is not None:
            return self._layers(i)
        if self._split is None:
            raise ValueError("these eigenvectors belong to no chain or model; use vectors")
        return self._split(self._rows()[i])

    def explain(self) -> str:
        """How the answer was computed and why it can be trusted."""
        work = f"{self.products} products with single vectors, seed {self.seed}."
        return _explained(*self.explanation, self.method, work, self.message, certificate=self.certificate)

    def _scalars(self) -> dict[str, Any]:
        return _certified(super()._scalars(), self.certificate)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.values, self.vectors))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "values", numbers(self.values, 8)
        yield "residuals", numbers(self.residuals, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "products", str(self.products)
        if self.certificate is not None:
            c = self.certificate
            yield (
                "certificate",
                f"{c.method}: nothing missed beyond {number(c.delta, 3)} above the last value",
            )

    def __repr__(self) -> str:
        return f"EigenResult(values=[{numbers(self.values, 6)}], status={self.status!r}, products={self.products})"


@dataclass(frozen=True, repr=False)
class SvdResult(Record):
    """Singular triplets with true residuals.

    ``U`` (m, k), ``s`` (k,) descending, ``Vt`` (k, n); ``residuals`` (k,): the larger of ‖Av − σu‖ and ‖Aᵀu − σv‖ from
    fresh products in float64; ``converged`` (k,) says which of them reach ``tol``·σ_1. ``status`` is converged,
    precision_limited, max_iterations or stopped, and ``message`` says what to do about it. ``products`` counts
    vectors multiplied by A or Aᵀ, ``reads`` passes over the matrix. ``U, s, Vt = result`` unpacks.
    """

    _ROWS = (Rows("triplets", "triplet", 0, ("s", "residuals", "converged")),)

    U: Array = field(repr=False)
    s: Array
    Vt: Array = field(repr=False)
    residuals: Array
    converged: Array
    status: str
    message: str
    tol: float
    products: int
    reads: int
    seed: int
    certificate: Certificate | None
    method: str

    def explain(self) -> str:
        """How the answer was computed and why it can be trusted."""
        work = f"{self.reads} reads of the matrix, {self.products} products with single vectors, seed {self.seed}."
        return _explained(self.method, work, self.message, certificate=self.certificate)

    def _scalars(self) -> dict[str, Any]:
        return _certified(super()._scalars(), self.certificate)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.U, self.s, self.Vt))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "singular values", numbers(self.s, 8)
        yield "residuals", numbers(self.residuals, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "reads", f"{self.reads} of the matrix, {self.products} products with single vectors"
        if self.certificate is not None:
            c = self.certificate
            yield "certificate", f"{c.method}: nothing missed beyond {number(c.delta, 3)} above the last value"

    def __repr__(self) -> str:
        return f"SvdResult(s=[{numbers(self.s, 6)}], status={self.status!r}, reads={self.reads})"


def _certified(scalars: dict[str, Any], certificate: Certificate | None) -> dict[str, Any]:
    """What holds for a whole result, and what is known of the values that were not found."""
    scalars.pop("certificate", None)
    method, delta, probability = ("", float("nan"), float("nan"))
    if certificate is not None:
        method, delta, probability = certificate.method, certificate.delta, certificate.probability
    return scalars | {
        "certificate_method": method,
        "certificate_delta": delta,
        "certificate_probability": probability,
    }


def _explained(*lines: str, certificate: Certificate | None) -> str:
    """The lines, and what the certificate says where there is one."""
    return "\n".join([*lines, *([] if certificate is None else [certificate.summary()])])
