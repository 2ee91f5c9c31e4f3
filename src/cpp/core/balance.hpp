// Balance of consecutive layers and norms of partial products. All sums are float64, whatever the weights are.
//
//   A = W_{j+1}ᵀ W_{j+1},  B = W_j W_jᵀ + b_j b_jᵀ   (both d_j × d_j)
//   gap_j      = ‖A − B‖_F, conserved by gradient flow as a matrix
//   relative_j = gap_j / √(‖A‖_F² + ‖B‖_F²) ∈ [0, 1], 0/0 := 0
//   bottom_j   = ‖W_j ⋯ W_1‖₂ (j = 0 … M, bottom_0 = 1),  top_j = ‖W_M ⋯ W_{j+1}‖₂ (top_M = 1)
//
// cost    gap: 2·d_j²·(d_{j-1} + d_{j+1}) flops;  partial norms: 2·d_0·P + 2·d_M·P flops and one Gram matrix a level.
#pragma once

#include <vector>

#include "core/chain.hpp"

namespace flatcore {

struct LayerBalance {
    double gap = 0.0, relative = 0.0;
};

std::vector<LayerBalance> layer_balance(const Chain& chain, RunControl& control);

struct PartialNorms {
    std::vector<double> bottom, top;
};

PartialNorms partial_norms(const Chain& chain, RunControl& control);

}  // namespace flatcore
