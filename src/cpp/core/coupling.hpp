// Coupling of consecutive layers and the strongest path through their singular vectors.
//
//   overlaps_j = |U_jᵀ V_{j+1}|, k_j × k_{j+1}: top left vectors of W_j against top right vectors of W_{j+1}.
//   Φ = Σ over paths (i_1 … i_M) of ∏_j σ_{i_j} ∏_j (U_jᵀ V_{j+1})_{i_j i_{j+1}} u v ᵀ; the strongest path maximises
//   the modulus of that weight, found by dynamic programming over the layers in logarithms.
//
// cost    overlaps: 2·d_j·k² flops;  path: M·k² operations.
#pragma once

#include <vector>

#include "core/matrix_product.hpp"
#include "core/views.hpp"

namespace flatcore {

// U: d × k (columns are vectors), Vt: k' × d (rows are vectors); out: k × k', absolute values.
template <class T>
void overlaps(ConstMatrixView<T> U, ConstMatrixView<T> Vt, MatrixView<double> out, RunControl& control);

struct Path {
    std::vector<Index> indices;  // one per layer, empty where no path has a positive weight
    double log_strength = 0.0;
};

// sigma[j][i] <= 0 (or NaN) excludes value i of layer j; pair_overlaps[j] is k_j × k_{j+1}.
Path strongest_path(const std::vector<std::vector<double>>& sigma,
                    const std::vector<ConstMatrixView<double>>& pair_overlaps);

}  // namespace flatcore
