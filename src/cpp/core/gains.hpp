// Gain profile: what each layer does to the unit vector that the layers below it hand over.
//
//   z_0 = v,  g_j = ‖W_j z_{j-1}‖,  z_j = W_j z_{j-1} / g_j,
//   residual_j = ‖W_jᵀ z_j − g_j z_{j-1}‖ / g_j   (0 where z_{j-1}, z_j is a singular pair of W_j with value g_j).
// Where a g_j is 0 the rest is undefined: NaN.
//
// cost    4·P flops, each weight read twice.
#pragma once

#include <vector>

#include "core/chain.hpp"

namespace flatcore {

struct GainProfile {
    std::vector<double> gains, residuals;  // one per layer
};

GainProfile gain_profile(const Chain& chain, const std::vector<double>& v, RunControl& control);

}  // namespace flatcore
