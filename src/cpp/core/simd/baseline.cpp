// The kernels at the compiler's own level: SSE2 on x86-64, NEON on 64-bit ARM.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/simd/simd.hpp"

#define FLATCORE_VECTOR_BYTES 16
#define FLATCORE_MOST_ROWS 6

namespace flatcore::simd::baseline {
namespace {
#include "core/simd/lanes.inc.hpp"
#include "core/simd/skinny.inc.hpp"
#include "core/simd/small_chain.inc.hpp"
// Functions of vectors, and what uses them.
#include "core/simd/functions.inc.hpp"
// Rows of edges, then nodes.
#include "core/simd/edges.inc.hpp"
#include "core/simd/node.inc.hpp"
}  // namespace

extern const Table kTable;
const Table kTable{"baseline",
                   skinny_kernels<float>(),
                   skinny_kernels<double>(),
                   small_chain_kernels<float>(),
                   small_chain_kernels<double>(),
                   function_kernels(),
                   edge_kernels(),
                   node_kernels()};

}  // namespace flatcore::simd::baseline
