// The edges of one pattern at one unit of a committee with binary weights: the sums that go up and the messages that
// come down (core/wfm/edge_bp.hpp has the equations and calls these).
//
// Entries are n, in rows of a multiple of kEdgeLanes; entries behind n are zero in `a` and one in `b2`, and stay so.
// ξ_i is the bit i % 32 of word (i / 32)·stride, +1 for 1, and everything negated where flip = −1.
//
//   up     h_i = tanh(b_i − a_i) = (e^{2b_i} − e^{2a_i})/(e^{2b_i} + e^{2a_i}),  ω = Σ ξ_i h_i,  V = Σ (1 − h_i²)
//   down   a_i ← (1 − λ) ξ_i F(ξ_i h_i) + λ a_i,  S_i += a_i;  returns max |tanh(ξF) − tanh a| before damping
//          F(y) = ½ log[Q(z₊)/Q(z₋)],  z_± = (ω − y ± 1)/√(V − 1 + y²),  Q(z) = p₊Φ(z) + p₋Φ(−z), within ±30
//
// F is one smooth function of y in [−1, 1] for all edges of a pattern and a unit. Where V is large its interpolant at
// 16 Chebyshev nodes is exact to rounding (its own last coefficients tell), and an edge costs a polynomial instead of
// two tails and a logarithm. A change of tanh is computed only where the change of a, a bound, is the largest so far.
//
// For continuous weights on a sphere, with inputs cξ and messages g, a weight's mean m and its unit's variance s:
//
//   gaussian_up     y_i = c(ξ_i m_i − c s g_i), the cavity's mean times its input;  ω = Σ y_i and max |y_i|
//   gaussian_down   g_i ← (1 − λ) g' + λ g_i,  S_i += ξ_i g_i;  returns max |g' − g|
//                   g' = φ(z)(p₊ − p₋)/(√V Q(z)),  z = (ω − y_i)/√V
//
// g' is interpolated likewise, between ±max |y_i|.
//
// cost   an exponential and a quotient an edge up; 16 multiply-adds down where F is interpolated, after 16 nodes a
// unit,
//        else two tails (an exponential, a polynomial of degree 22 and a quotient each), a root and a logarithm.
//        Gaussian: the same down, else a tail and a quotient
#pragma once

#include <cstddef>
#include <cstdint>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

constexpr Index kEdgeLanes = 8;
constexpr double kMostField = 30.0;      // |a| at most
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
    double span;         // the largest |y_i| of continuous weights
};

constexpr Index kEdgeScratch = 16;  // of each unit, on the way down

struct EdgeKernels {
    void (*up)(const EdgeRow& row, const double* b2, double* h, double* omega, double* V);
    // All units of a pattern; h and S in rows of ld entries. Returns the largest change, `change` at least.
    double (*down)(Index units, const EdgeRow* rows, const EdgeOutput* outputs, const double* h, Index ld,
                   double damping, double change, double* S, double* scratch);
    void (*gaussian_up)(const EdgeRow& row, const double* mean, double c, double s, double* y, EdgeOutput& output);
    double (*gaussian_down)(const EdgeRow& row, const EdgeOutput& output, const double* y, double damping, double* S);
};

}  // namespace flatcore::simd
