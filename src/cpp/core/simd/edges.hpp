// The edges of one pattern at one unit of a committee with binary weights: the sums that go up and the messages that
// come down (core/wfm/edge_bp.hpp has the equations and calls these).
//
// Entries are n, in rows of a multiple of kEdgeLanes; entries behind n are zero in `a` and one in `b2`, and stay so.
// ξ_i is the bit i % 32 of word (i / 32)·stride, +1 for 1, and everything negated where flip = −1.
//
//   up     q_i = e^{2a_i},  h_i = tanh(b_i − a_i) = (e^{2b_i} − q_i)/(e^{2b_i} + q_i),  ω = Σ ξ_i h_i,  V = Σ (1 − h_i²)
//   down   a_i ← (1 − λ) ξ_i F(ξ_i h_i) + λ a_i,  S_i += a_i;  returns max |tanh(ξF) − tanh a| before damping
//          F(y) = ½ log[Q(z₊)/Q(z₋)],  z_± = (ω − y ± 1)/√(V − 1 + y²),  Q(z) = p₊Φ(z) + p₋Φ(−z), within ±30
//
// F is one smooth function of y in [−1, 1] for all edges of a pattern and a unit. Where V is large its interpolant at
// 16 Chebyshev nodes is exact to rounding (its own last coefficients tell), and an edge costs a polynomial instead of
// two tails and a logarithm.
//
// cost   an exponential and a quotient an edge up, the same and 16 multiply-adds down, where F is interpolated; else
//        two tails (an exponential, a polynomial of degree 22 and a quotient each), a root, a logarithm
#pragma once

#include <cstddef>
#include <cstdint>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

constexpr Index kEdgeLanes = 8;
constexpr double kMostField = 30.0;     // |a| at most
constexpr double kLeastVariance = 1e-6;  // V and V − 1 + h² at least

struct EdgeRow {
    Index n;
    const std::uint32_t* words;
    Index stride;
    int flip;
    double* a;
};

struct EdgeOutput {
    double omega, V;
    double plus, minus;  // p₊, p₋: what the output node says of the unit's sign; p₋ = 0 where it is certain
};

struct EdgeKernels {
    void (*up)(const EdgeRow& row, const double* b2, double* q, double* h, double* omega, double* V);
    double (*down)(const EdgeRow& row, const EdgeOutput& output, const double* q, const double* h, double damping,
                   double* S);
};

}  // namespace flatcore::simd
