// One parallel sweep of belief propagation on the edges of a committee, binary weights.
//
//   Messages a (P × K × n): of pattern μ to weight (k, i), in units of a field; x = sign_μ ξ. Fields b (K × n) hold the
//   sum of the messages and whatever acts on the weight besides.
//
//   cavity      h = tanh(b − a);  ω_k = Σ_i x_i h_i,  V_k = Σ_i (1 − h_i²)                 (per pattern and unit)
//   output      B_k from z = ω/√V (core/wfm/node.hpp)
//   messages    u = H(e₊ − e₋)/(2 + H(e₊ + e₋)),  H = tanh B,  e_± = erf[(ω − x h ± x)/√(2(V − 1 + h²))],  a' = atanh u
//               with e_± = 2Φ(z_±) − 1 it is a' = ½ log(Q₊/Q₋), Q_± = p₊Φ(z_±) + p₋Φ(−z_±): sums of positive numbers
//   damping     a ← (1 − λ)a' + λa,  S_{ki} = Σ_μ a
//
//   |a| <= 30; V and V − 1 + h² are at least 1e-6. The change is max |tanh a' − tanh a|.
//
// Rows of a lie `ld` entries apart, a multiple of 8, zeros behind n.
//
// cost    P·K·n edges, each as core/simd/edges.hpp says; 16 bytes an edge to and from memory. Threads take patterns,
// and
//         their sums are added in the threads' order: the same threads give the same bits.
// source  Baldassi et al., PNAS 113, E7655 (2016); BinaryCommitteeMachineFBP.jl; docs/wide-flat-minima.md
#pragma once

#include <cstdint>

#include "core/run_control.hpp"
#include "core/views.hpp"
#include "core/wfm/node.hpp"
#include "core/wfm/patterns.hpp"

namespace flatcore::wfm {

// Patterns with what multiplies them and what the output must be, both ±1 (P).
struct Task {
    Patterns patterns;
    const std::int8_t* sign = nullptr;
    const std::int8_t* target = nullptr;
    Activation activation = Activation::majority;
    Index units = 1;

    Index edges() const { return patterns.patterns * units * patterns.inputs; }
};

struct EdgeMessages {
    double* data = nullptr;
    Index units = 0, ld = 0;

    double* row(Index mu, Index k) const { return data + (mu * units + k) * ld; }
};

// Rows of messages for n inputs.
Index padded_inputs(Index inputs);

// b, S: K × n row-major; S has room for n. Returns the change.
double edge_sweep(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, double damping,
                  MatrixView<double> S, RunControl& control);

// One parallel sweep for continuous weights: inputs cξ with c = 1/√n, messages g (P × K × n, as a above), unit
// variances s (K), means m (K × n).
//
//   ω = Σ_i c x_i m_i^{cav},  m^{cav}_i = m_i − c x_i s g_i;  V = s
//   g' = ∂ log Z/∂ω at (ω − c x_i m_i^{cav}, V(1 − 1/n)),  Γ' = g(g + ω/V) at (ω, V); both damped;
//   H_{ki} = c Σ_μ x g,  G_k = c² Σ_μ Γ
//
// Γ: P × K in place. H: K × n. G: K. Returns max |g' − g|.
struct GaussianUnits {
    ConstMatrixView<double> mean;
    const double* variance;
};
struct GaussianSums {
    MatrixView<double> H;
    double* G;
};
double gaussian_sweep(const Task& task, const EdgeMessages& g, MatrixView<double> gamma, const GaussianUnits& units,
                      double damping, const GaussianSums& sums, RunControl& control);

// The law of a continuous weight of one of y replicas that are coupled with γ to a centre: its patterns say H and G,
// the prior is N(0, 1), and r = G + 1. The cavity's law has mean H/r and variance 1/r; the y − 1 others act with
// precision A = [(1/r + 1/γ)/(y − 1) + 1/γ]⁻¹ = (y − 1)r/(1 + yr/γ) around that mean, which it therefore keeps.
//
//   m = H/r,  s = 1/(r + A)                                             H, m: K × n. G, s: K
template <class T>
void focused_law(ConstMatrixView<T> H, const double* G, double gamma, double replicas, MatrixView<T> m, double* s) {
    for (Index k = 0; k < H.rows; ++k) {
        const double r = G[k] + 1.0;
        s[k] = 1.0 / (r + (replicas - 1.0) * r / (1.0 + replicas / gamma * r));
        const T over = static_cast<T>(1.0 / r);
        for (Index i = 0; i < H.cols; ++i) m(k, i) = over * H(k, i);
    }
}

}  // namespace flatcore::wfm
