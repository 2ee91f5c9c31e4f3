// The kernels for AVX2, FMA and F16C.
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/simd/simd.hpp"

#define FLATCORE_VECTOR_BYTES 32
#define FLATCORE_MOST_ROWS 6

namespace flatcore::simd::avx2 {
namespace {
#include "core/simd/kernels.inc.hpp"
}  // namespace

extern const Table kTable;
const Table kTable = all_kernels("avx2");

}  // namespace flatcore::simd::avx2
