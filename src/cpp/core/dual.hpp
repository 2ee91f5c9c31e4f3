// Gram matrices of the partial products on one side of every layer, for the Gauss–Newton dual.
//
// Source: docs/theory.md, "The Gauss–Newton dual". From the output, rows X = I (d_M × d_M):  A_j A_jᵀ;  from the input,
// rows X = Lᵀ (r × d_0, or d_0 + 1 with biases):  (B_j L)ᵀ (B_j L). Of A_j the columns that a direction reaches count:
// the homogeneous one never does; B_j keeps its homogeneous row where layer j has a bias.
//
// cost    2·c·P + 2·c²·Σd flops for c rows, one read of the weights.
// memory  two blocks of c rows; M results of c × c.
#pragma once

#include <vector>

#include "core/hessian.hpp"

namespace flatcore {

// Entry j − 1 belongs to layer j. `factor` as in ChainHessian; everything is summed in float64.
std::vector<Matrix<double>> side_grams(const Chain& chain, NarrowEnd side, ConstMatrixView<double> factor,
                                       RunControl& control);

}  // namespace flatcore
