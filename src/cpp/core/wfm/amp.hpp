// One sweep of approximate message passing for a committee: belief propagation with the messages of a pattern to a
// unit's weights expanded around one number, so that the state is O(K·n + P·K) instead of O(P·K·n).
//
//   Inputs cξ, x = sign_μ ξ: c = 1 for binary weights, 1/√n for continuous ones. Means m (K × n); variances V (K) of
//   the units' fields, V_k = c² Σ_i (1 − m_i²) or the variance of one continuous weight, at least 1e-6.
//
//   ω_{μk} = c Σ_i x_i m_{ki} − V_k g_{μk}                       (g of the sweep before)
//   g', Γ  = ∂ log Z/∂ω, −∂²log Z/∂ω² given the output node's messages (core/wfm/node.hpp);  g ← (1 − λ)g' + λg
//   S'_{ki} = c Σ_μ x g + c² (Σ_μ Γ_{μk}) m_{ki}                   (continuous: Σ_μ Γ damped as g is, at least 0)
//
//   The state's precision is T, and that of the outputs of one unit; those of more units and all sums are float64. A
//   thread makes the outputs of the patterns whose fields it has just made.
//
// cost    the two products of core/wfm/patterns.hpp and P·K outputs
// source  Baldassi, Braunstein, Brunel and Zecchina, PNAS 104, 11079 (2007); docs/wide-flat-minima.md
#pragma once

#include "core/wfm/edge_bp.hpp"

namespace flatcore::wfm {

// Of all patterns: Σ log Z, the largest |g' − g|·√V, and per unit Σ_μ Γ and Σ_μ g².
struct AmpSums {
    double log_partition = 0.0, change = 0.0;
    double *gamma = nullptr, *square = nullptr;
};

// Continuous weights. m, S: K × n row-major, S = S'; g: P × K row-major, in place; V: K. gamma: K, the damped Σ_μ Γ of
// the sweep before, in place; sums.gamma are the undamped ones.
template <class T>
void gaussian_amp_sweep(const Task& task, double c, ConstMatrixView<T> m, const double* V, MatrixView<T> g,
                        double* gamma, double damping, MatrixView<T> S, AmpSums& sums, RunControl& control);

// Binary weights: m = tanh(S + f) and its V, a sweep, S ← (1 − λ)S' + λS. f, S: K × n row-major, S in place.
template <class T>
void binary_amp_sweep(const Task& task, ConstMatrixView<T> f, MatrixView<T> g, double damping, MatrixView<T> S,
                      double* V, AmpSums& sums, RunControl& control);

}  // namespace flatcore::wfm
