"""
C++ kernels of flatcore; arguments are checked by the Python layer above.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Chain', 'ChainHessian32', 'ChainHessian64', 'Recycler', 'ReducedHessian32', 'ReducedHessian64', 'WfmTask', 'build_info', 'chain_hessian', 'combine', 'fill_normal', 'gain_profile', 'get_blas_threads', 'gram', 'in_float32', 'layer_balance', 'layer_svd', 'magnitude', 'many_sharpness', 'matmul', 'max_threads', 'normal_product', 'normalised_signature', 'overlaps', 'partial_norms', 'reduced_hessian', 'reduced_in_float32', 'set_blas_threads', 'set_threads', 'side_grams', 'stored_product', 'strongest_path', 'thin_svd', 'to_rows', 'update', 'wfm_binary_amp_sweep', 'wfm_binary_errors', 'wfm_binary_fields', 'wfm_descent', 'wfm_edge_bethe', 'wfm_edge_sweep', 'wfm_fields', 'wfm_focused_law', 'wfm_gaussian_amp_sweep', 'wfm_gaussian_sweep', 'wfm_hessian_product', 'wfm_least_action', 'wfm_margin', 'wfm_output_terms', 'wfm_pack', 'wfm_pack_signs', 'wfm_padded_inputs', 'wfm_perturbed', 'wfm_real_errors', 'wfm_replicated', 'wfm_rows', 'wfm_sums', 'wfm_unpack']
class Recycler:
    """
    Memory for results of one size, used again once they are freed.
    """
    def __init__(self) -> None:
        ...
    def empty32(self, rows: typing.SupportsInt | typing.SupportsIndex, cols: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
        """
        An uninitialised float32 array.
        """
    def empty64(self, rows: typing.SupportsInt | typing.SupportsIndex, cols: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
        """
        An uninitialised float64 array.
        """
class Chain:
    """
    Read-only views of a chain's weights.
    """
    def __init__(self, weights: collections.abc.Sequence[numpy.ndarray], biases: collections.abc.Sequence[numpy.ndarray | None], skips: collections.abc.Sequence[bool]) -> None:
        ...
    def fingerprint(self) -> int:
        """
        A hash of a sample of the weights' entries.
        """
class ChainHessian64:
    """
    Narrow-end gradient, Hessian and Gauss–Newton products.
    """
    def end_to_end(self) -> numpy.typing.NDArray[numpy.float64]:
        """
        Φ (m, q), or its transpose in whitened coordinates, at the far end.
        """
    def gradient(self) -> numpy.typing.NDArray[numpy.float64]:
        ...
    def product(self, directions: numpy.ndarray, out: numpy.ndarray, gauss_newton: bool, loss: typing.Any) -> None:
        """
        Rows of `out` (k, P) become the products of the rows of `directions`.
        """
    def set_loss_gradient(self, G: numpy.ndarray) -> None:
        ...
    @property
    def narrow_width(self) -> int:
        ...
class ChainHessian32:
    """
    Narrow-end gradient, Hessian and Gauss–Newton products.
    """
    def end_to_end(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Φ (m, q), or its transpose in whitened coordinates, at the far end.
        """
    def gradient(self) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def product(self, directions: numpy.ndarray, out: numpy.ndarray, gauss_newton: bool, loss: typing.Any) -> None:
        """
        Rows of `out` (k, P) become the products of the rows of `directions`.
        """
    def set_loss_gradient(self, G: numpy.ndarray) -> None:
        ...
    @property
    def narrow_width(self) -> int:
        ...
class ReducedHessian64:
    """
    Products in the coordinates of the nonzero eigenvalues.
    """
    def annihilated(self, layer: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex) -> tuple:
        """
        Weight and bias (or None) of one of them.
        """
    def end_to_end_change(self, z: numpy.ndarray) -> numpy.typing.NDArray[numpy.float64]:
        """
        Far rows (k·m, q): how the end-to-end matrix moves along the rows of z.
        """
    def lift(self, z: numpy.ndarray, directions: numpy.ndarray) -> None:
        """
        Rows of `directions` (k, P) become the directions the rows of z (k, N) stand for.
        """
    def lift_layer(self, z: numpy.ndarray, layer: typing.SupportsInt | typing.SupportsIndex) -> tuple:
        """
        Weight and bias (or None) of layer 1 … M of the direction z (1, N).
        """
    def num_annihilated(self, layer: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Orthonormal directions of one layer with image zero, outside the reduced space.
        """
    def product(self, z: numpy.ndarray, out: numpy.ndarray, loss: typing.Any) -> None:
        """
        Rows of `out` (k, N) become the products of the rows of z.
        """
    def project(self, directions: numpy.ndarray, z: numpy.ndarray) -> None:
        """
        The adjoint of lift.
        """
    def pull_back(self, far_rows: numpy.ndarray, out: numpy.ndarray) -> None:
        """
        The adjoint of end_to_end_change.
        """
    @property
    def dimension(self) -> int:
        ...
class ReducedHessian32:
    """
    Products in the coordinates of the nonzero eigenvalues.
    """
    def annihilated(self, layer: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex) -> tuple:
        """
        Weight and bias (or None) of one of them.
        """
    def end_to_end_change(self, z: numpy.ndarray) -> numpy.typing.NDArray[numpy.float32]:
        """
        Far rows (k·m, q): how the end-to-end matrix moves along the rows of z.
        """
    def lift(self, z: numpy.ndarray, directions: numpy.ndarray) -> None:
        """
        Rows of `directions` (k, P) become the directions the rows of z (k, N) stand for.
        """
    def lift_layer(self, z: numpy.ndarray, layer: typing.SupportsInt | typing.SupportsIndex) -> tuple:
        """
        Weight and bias (or None) of layer 1 … M of the direction z (1, N).
        """
    def num_annihilated(self, layer: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Orthonormal directions of one layer with image zero, outside the reduced space.
        """
    def product(self, z: numpy.ndarray, out: numpy.ndarray, loss: typing.Any) -> None:
        """
        Rows of `out` (k, N) become the products of the rows of z.
        """
    def project(self, directions: numpy.ndarray, z: numpy.ndarray) -> None:
        """
        The adjoint of lift.
        """
    def pull_back(self, far_rows: numpy.ndarray, out: numpy.ndarray) -> None:
        """
        The adjoint of end_to_end_change.
        """
    @property
    def dimension(self) -> int:
        ...
class WfmTask:
    """
    Packed patterns with what multiplies them and what the output must be.
    """
    def __init__(self, words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, sign: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], target: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, units: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
def build_info() -> dict:
    """
    How the extension was compiled.
    """
def chain_hessian(chain: Chain, narrow_output: bool, factor: typing.Any) -> ChainHessian64:
    """
    Partial products in float64 whatever the weights' precision.
    """
def combine(V: numpy.ndarray, C: numpy.ndarray) -> None:
    """
    First rows of V become Cᵀ V, in place.
    """
def fill_normal(V: numpy.ndarray, seed: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Fill V with standard normal entries.
    """
def gain_profile(chain: Chain, v: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> tuple:
    """
    Gains and residuals along v.
    """
def get_blas_threads() -> int:
    """
    BLAS threads, 0 where unknown.
    """
def gram(V: numpy.ndarray, W: numpy.ndarray) -> numpy.typing.NDArray[numpy.float64]:
    """
    V Wᵀ in float64; rows are vectors.
    """
def in_float32(hessian: ChainHessian64) -> ChainHessian32:
    """
    The same partial products, rounded to float32.
    """
def layer_balance(chain: Chain, progress: typing.Any = None) -> tuple:
    """
    Gaps and relative gaps of consecutive layers.
    """
def layer_svd(chain: Chain, layer: typing.SupportsInt | typing.SupportsIndex) -> tuple:
    """
    U, s, Vt of one layer's link.
    """
def magnitude(A: numpy.ndarray) -> tuple:
    """
    max |a_ij|, NaN where A is not finite, and the sum of the squares in float64.
    """
def many_sharpness(weights: collections.abc.Sequence[numpy.ndarray], basis: numpy.ndarray, roots: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], target: numpy.ndarray, scale: typing.SupportsFloat | typing.SupportsIndex, constant: typing.SupportsFloat | typing.SupportsIndex, settings: dict) -> dict:
    """
    Top curvatures and measures of a stack of chains, by name; weights (batch, d_j, d_{j-1}).
    """
def matmul(A: numpy.ndarray, B: numpy.ndarray) -> numpy.ndarray:
    """
    A B of two matrices with a unit stride each.
    """
def max_threads() -> int:
    """
    OpenMP threads a parallel loop may use.
    """
def normal_product(A: numpy.ndarray, X: numpy.ndarray, out: numpy.ndarray, scale: typing.SupportsFloat | typing.SupportsIndex) -> None:
    """
    out = scale² X AᵀA with one read of A; rows of X are vectors.
    """
def normalised_signature(signature: str) -> str:
    """
    A capsule's C signature with Cython's type names resolved and spaces removed.
    """
def overlaps(U: numpy.ndarray, Vt: numpy.ndarray) -> numpy.typing.NDArray[numpy.float64]:
    """
    |Uᵀ V|, columns of U against rows of Vt.
    """
def partial_norms(chain: Chain) -> tuple:
    """
    Norms of bottom and top partial products.
    """
def reduced_hessian(hessian: ChainHessian64, gauss_newton: bool) -> ReducedHessian64:
    """
    The Hessian, or Gauss–Newton matrix, where its eigenvalues are not zero.
    """
def reduced_in_float32(reduced: ReducedHessian64, hessian: ChainHessian32) -> ReducedHessian32:
    """
    The same coordinates, rounded to float32.
    """
def set_blas_threads(threads: typing.SupportsInt | typing.SupportsIndex) -> bool:
    """
    Set the BLAS threads; True where it worked.
    """
def set_threads(threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Set the number of OpenMP threads.
    """
def side_grams(chain: Chain, factor: typing.Any) -> list[numpy.typing.NDArray[numpy.float64]]:
    """
    A_j A_jᵀ of every layer, or (B_j L)ᵀ (B_j L) for the factor Lᵀ.
    """
def stored_product(X: numpy.ndarray, A: numpy.ndarray, out: numpy.ndarray) -> None:
    """
    out = X A in the precision of out, whatever that of A.
    """
def strongest_path(sigma: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]], overlaps: collections.abc.Sequence[numpy.ndarray]) -> tuple:
    """
    Indices and logarithm of the strength of the strongest path.
    """
def thin_svd(A: numpy.ndarray) -> tuple:
    """
    U, s, Vt of a matrix.
    """
def to_rows(V: numpy.ndarray, out: numpy.ndarray) -> None:
    """
    out (b, N) becomes Vᵀ.
    """
def update(W: numpy.ndarray, V: numpy.ndarray, C: numpy.ndarray) -> None:
    """
    W -= Cᵀ V in place.
    """
def wfm_binary_amp_sweep(task: WfmTask, f: numpy.ndarray, g: numpy.ndarray, damping: typing.SupportsFloat | typing.SupportsIndex, S: numpy.ndarray) -> tuple:
    """
    The same for binary weights with m = tanh(S + f), outputs g (P, K) and S (K, n) in place: variances (K) of the fields, sums (K) of g², the log partition function and the change.
    """
def wfm_binary_errors(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, weights: numpy.typing.NDArray[numpy.uint32], labels: numpy.typing.NDArray[numpy.int8], parity: bool) -> numpy.typing.NDArray[numpy.int64]:
    """
    Errors (B,) of machines with weights ±1 as words (B, K, C).
    """
def wfm_binary_fields(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, weights: numpy.typing.NDArray[numpy.uint32]) -> numpy.typing.NDArray[numpy.int32]:
    """
    Fields (P, K), int32, of units with weights ±1 as words (K, C).
    """
def wfm_descent(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, beta: typing.SupportsFloat | typing.SupportsIndex, gamma: typing.SupportsFloat | typing.SupportsIndex, order: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], batch: typing.SupportsInt | typing.SupportsIndex, rate: typing.SupportsFloat | typing.SupportsIndex, weights: numpy.typing.NDArray[numpy.float64]) -> None:
    """
    An epoch of SGD on the cross-entropy, in place, units normalised after every batch.
    """
def wfm_edge_bethe(task: WfmTask, a: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], b: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], exact: bool = False) -> float:
    """
    The Bethe free entropy without the weights' own terms.
    """
def wfm_edge_sweep(task: WfmTask, a: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], b: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], damping: typing.SupportsFloat | typing.SupportsIndex, exact: bool = False) -> tuple:
    """
    One sweep of belief propagation: messages a (P, K, padded) in place; sums (K, n) and the change.
    """
def wfm_fields(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, m: numpy.ndarray) -> numpy.ndarray:
    """
    Fields (P, K) of the units with weights m (K, n).
    """
def wfm_focused_law(H: numpy.ndarray, G: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], gamma: typing.SupportsFloat | typing.SupportsIndex, replicas: typing.SupportsFloat | typing.SupportsIndex) -> tuple:
    """
    Means (K, n) and variances (K) of weights of one of several replicas.
    """
def wfm_gaussian_amp_sweep(task: WfmTask, c: typing.SupportsFloat | typing.SupportsIndex, m: numpy.ndarray, V: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], g: numpy.ndarray, gamma: numpy.typing.NDArray[numpy.float64], damping: typing.SupportsFloat | typing.SupportsIndex) -> tuple:
    """
    One sweep of approximate message passing, outputs g (P, K) and sums gamma (K) of Γ in place: H (K, n), sums (K) of g², the log partition function and the change.
    """
def wfm_gaussian_sweep(task: WfmTask, g: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], gamma: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], mean: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], variance: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], damping: typing.SupportsFloat | typing.SupportsIndex) -> tuple:
    """
    The same for continuous weights: messages g (P, K, padded) and gamma (P, K) in place; H (K, n), G (K), the change.
    """
def wfm_hessian_product(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, beta: typing.SupportsFloat | typing.SupportsIndex, gamma: typing.SupportsFloat | typing.SupportsIndex, terms: dict, V: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
    """
    The cross-entropy's Hessian times vectors (b, K, n).
    """
@typing.overload
def wfm_least_action(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, order: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], hidden: numpy.typing.NDArray[numpy.int32]) -> int:
    """
    An epoch of least action learning on hidden integers (K, n), in place; the patterns that were wrong.
    """
@typing.overload
def wfm_least_action(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, order: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], weights: numpy.typing.NDArray[numpy.float64]) -> int:
    """
    The same on continuous weights (K, n).
    """
def wfm_margin(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], order: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], delta: typing.SupportsFloat | typing.SupportsIndex, weights: numpy.typing.NDArray[numpy.float64]) -> int:
    """
    An epoch of margin least action, in place; the patterns with too few robust units.
    """
def wfm_output_terms(h: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, beta: typing.SupportsFloat | typing.SupportsIndex, gamma: typing.SupportsFloat | typing.SupportsIndex) -> dict:
    """
    Value, t, slope, pull, bend and curvature of every pattern's cross-entropy at fields h (P, K).
    """
def wfm_pack(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, strings: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8], first: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Write bit strings (count, ceil(S n / 8)) as patterns first, first + 1, …
    """
def wfm_pack_signs(signs: numpy.typing.NDArray[numpy.int8]) -> numpy.typing.NDArray[numpy.uint32]:
    """
    The words (R, C) of rows of int8 ±1 (R, n), the lowest bit first.
    """
def wfm_padded_inputs(inputs: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Entries of a row of messages.
    """
def wfm_perturbed(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], order: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], delta: typing.SupportsFloat | typing.SupportsIndex, step: typing.SupportsFloat | typing.SupportsIndex, weights: numpy.typing.NDArray[numpy.float64]) -> int:
    """
    An epoch of the perturbed gradient, in place.
    """
def wfm_real_errors(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, weights: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.int64]:
    """
    Errors (B,) of weights (B, K, n).
    """
def wfm_replicated(rows: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], labels: typing.Annotated[numpy.typing.ArrayLike, numpy.int8], parity: bool, orders: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], batch: typing.SupportsInt | typing.SupportsIndex, lambda_: typing.SupportsFloat | typing.SupportsIndex, gamma: typing.SupportsFloat | typing.SupportsIndex, hidden: numpy.typing.NDArray[numpy.float64]) -> int:
    """
    An epoch of replicated SGD on hidden reals (y, K, n), in place; the patterns that were wrong.
    """
def wfm_rows(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint32]:
    """
    The words pattern by pattern: (P, S, C).
    """
def wfm_sums(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, g: numpy.ndarray) -> numpy.ndarray:
    """
    Sums (K, n) over patterns of their inputs times g (P, K).
    """
def wfm_unpack(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], patterns: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, first: typing.SupportsInt | typing.SupportsIndex, count: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint8]:
    """
    The bit strings of patterns first … first + count - 1.
    """
