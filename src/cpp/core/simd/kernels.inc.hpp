// All kernels, and the table of them. Included inside a set's own namespace; later ones use earlier ones.
// clang-format off
#include "core/simd/lanes.inc.hpp"
#include "core/simd/skinny.inc.hpp"
#include "core/simd/magnitude.inc.hpp"
#include "core/simd/small_chain.inc.hpp"
#include "core/simd/committee.inc.hpp"
#include "core/simd/online.inc.hpp"
#include "core/simd/functions.inc.hpp"
#include "core/simd/edges.inc.hpp"
#include "core/simd/node.inc.hpp"
#include "core/simd/amp.inc.hpp"
// clang-format on

constexpr Table all_kernels(const char* name) {
    return {name,
            skinny_kernels<float>(),
            skinny_kernels<double>(),
            magnitude_kernels(),
            small_chain_kernels<float>(),
            small_chain_kernels<double>(),
            committee_kernels<float>(),
            committee_kernels<double>(),
            bit_kernels(),
            online_kernels(),
            function_kernels(),
            edge_kernels(),
            node_kernels(),
            amp_kernels<float>(),
            amp_kernels<double>()};
}
