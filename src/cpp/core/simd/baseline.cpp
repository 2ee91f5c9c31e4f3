// The kernels at the compiler's own level: SSE2 on x86-64, NEON on 64-bit ARM.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/simd/simd.hpp"

#define FLATCORE_VECTOR_BYTES 16
#define FLATCORE_MOST_ROWS 6

namespace flatcore::simd::baseline {
namespace {
#include "core/simd/kernels.inc.hpp"
}  // namespace

extern const Table kTable;
const Table kTable = all_kernels("baseline");

}  // namespace flatcore::simd::baseline
