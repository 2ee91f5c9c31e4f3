// The largest curvatures of many small chains of equal widths under one quadratic loss, one thread a chain.
//
//   L_i(W) = scale·(‖Φ_i L − T‖² + constant), i = 1 … batch;  the same d_0 … d_M, L (d_0 × r) and T (d_M × r) for all.
//
// Each chain: partial products in float64, rounded to T; Lanczos from a random vector (uniform entries) on the
// narrow-end product of core/simd/small_chain.hpp, with partial reorthogonalisation (Simon 1984: the loss of
// orthogonality follows a scalar recurrence, and full passes are made where it exceeds √eps); Rayleigh quotient and
// residual from a fresh product in float64. Further eigenvalues one after the other, each from a new random vector in
// the complement of those found, so that copies are found like any others; then a Rayleigh–Ritz step in float64 over
// all.
//
// Certificate: a random vector x of N entries, uniform on [−1, 1], has a component below √ε·‖x‖ along a given unit
// vector with probability at most √(2εN/3), ‖x‖² being close to N/3 (Ball 1986: a linear form of uniform entries on
// [0, 1] has density at most √2); for normal entries it is √(2εN/π). After q Lanczos steps an eigenvalue ≥ θ + δ can be
// unseen only if ε = 1/sinh²((2q − 1)·arsinh √(δ/w)): the bound of docs/theory.md for blocks of one vector. No probe is
// needed; `certified_steps` is the least number of steps.
//
// cost   for each chain and step 12·m·P flops (simd/small_chain.hpp) and some 8·P for the vectors
// memory for each thread (basis + 2k)·P entries
#pragma once

#include <cstdint>
#include <vector>

#include "core/hessian.hpp"
#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore {

// W_j of all chains: (batch, d_j, d_{j-1}) with any strides, counted in entries.
struct StackedLayer {
    const void* data;
    Scalar scalar;
    Index chain_stride, row_stride, col_stride;
};

struct ManyChains {
    Index batch = 0;
    std::vector<Index> dims;           // d_0 … d_M
    std::vector<StackedLayer> layers;  // W_1 … W_M
    // L = Q diag(roots), Q with orthonormal columns: the first r columns of `basis`, which is d_0 × d_0 orthogonal.
    ConstMatrixView<double> basis;
    std::vector<double> roots;
    ConstMatrixView<double> target;
    double scale = 1.0, constant = 0.0;
};

struct ManyOptions {
    Index k = 1;
    double tol = 1e-4;  // relative to the largest modulus
    Index max_steps = 2000;
    Index certified_steps = 1;
    std::uint64_t seed = 0;
    Curvature curvature = Curvature::hessian;
    bool measures = true;  // gradient_norm, spectral_norm and the gaps too; NaN without
};

enum class ManyStatus : std::int32_t { converged, precision_limited, max_iterations, overflow };

// Arrays over the batch that the caller owns.
template <class T>
struct ManyResults {
    double *values, *residuals;  // (batch, k)
    double* extent;              // largest modulus seen of an eigenvalue
    double* width;               // θ_1 − θ_min
    double *loss, *gradient_norm, *spectral_norm;
    double *gap, *relative_gap;  // (batch, M − 1)
    std::int32_t* status;
    std::int64_t *products,
        *steps;  // steps: the fewest from a random vector; 0 where they spanned its whole Krylov space
    T* vectors;  // (batch, k, P), layers W_1 … W_M row-major, or null
};

template <class T>
void many_sharpness(const ManyChains& chains, const ManyOptions& options, const ManyResults<T>& results,
                    RunControl& control);

}  // namespace flatcore
