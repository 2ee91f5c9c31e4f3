// The kernels for AVX-512 (F, BW, DQ, VL).
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "core/simd/simd.hpp"

#define FLATCORE_VECTOR_BYTES 64
#define FLATCORE_MOST_ROWS 12

namespace flatcore::simd::avx512 {
namespace {
#include "core/simd/kernels.inc.hpp"
}  // namespace

extern const Table kTable;
const Table kTable = all_kernels("avx512");

}  // namespace flatcore::simd::avx512
