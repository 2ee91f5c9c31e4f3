// The largest modulus of stored entries, and the sum of their squares in float64.
#pragma once

#include <cstddef>

namespace flatcore {

enum class Scalar;

namespace simd {

// `largest` is that of the entries that are not NaN. A NaN makes `squares` NaN, an infinity infinite, as squares beyond
// 1e308 do; those of float16, which some sets read as finite numbers, are larger than 65504.
struct Magnitude {
    double largest, squares;
};

struct MagnitudeKernels {
    Magnitude (*stored)(Scalar stored, std::ptrdiff_t n, const void* x);
};

}  // namespace simd
}  // namespace flatcore
