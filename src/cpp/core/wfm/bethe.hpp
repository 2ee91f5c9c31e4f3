// The Bethe free entropy of binary weights from messages on edges, and belief propagation without the Gaussian law of
// the fields, for small n.
//
//   log Z = Σ_i lc2(b_i) + Σ_μ log Z_μ − Σ_{μi} [lc2(b_i) − lc2(b_i − a_{μ→i})],  lc2(x) = log 2cosh x
//
//   The weights' own term, Σ_i lc2(b_i), is left to the caller. Z_μ is the output node's (core/wfm/node.hpp): of the
//   normal law of the fields, r_k = Φ(ω_k/√V_k), or exactly, r_k = P(Σ_i x_i w_i > 0) with P(w_i = ±1) = (1 ± h_i)/2.
//
//   exact messages  a' = x ½ log[(p₊R₊ + p₋(1 − R₊))/(p₊R₋ + p₋(1 − R₋))], R_± the probability of a positive field
//   where
//                   x_i w_i = ±1: tails of the number of positive terms, each left out in turn (n odd)
//
// Conventions as in edge_bp.hpp.
//
// cost    a pass over the messages with an exponential and a logarithm an edge; exact: O(n²) a pattern and unit
// source  Mézard and Montanari, Information, Physics, and Computation, 2009, ch. 14; docs/wide-flat-minima.md
#pragma once

#include "core/wfm/edge_bp.hpp"

namespace flatcore::wfm {

enum class FieldLaw { normal, exact };

// Σ_μ log Z_μ − Σ_{μi} [lc2(b_i) − lc2(b_i − a_{μ→i})]
double edge_bethe(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, FieldLaw law,
                  RunControl& control);

// As edge_sweep.
double exact_sweep(const Task& task, const EdgeMessages& a, ConstMatrixView<double> b, double damping,
                   MatrixView<double> S, RunControl& control);

}  // namespace flatcore::wfm
