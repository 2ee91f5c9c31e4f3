// Elementary functions of arrays, vector by vector, in float64.
//
//   exp      to 1 ulp on [−708, 709]; arguments beyond are moved to the ends
//   log      to 1 ulp, x positive and normal
//   erfcx    e^{x²} erfc(x), x >= 0, to 4 ulp: a polynomial in (x − c)/(x + c) over 1 + 2x (Shepherd and Laframboise,
//            Math. Comp. 36, 1981), coefficients computed for this file
//   ndtr     Φ(x), relative to 1e-13 down to x = −37
//   log_ndtr log Φ(x), absolute to 1e-16 above zero, relative below
//
// Kernels of committee machines use them inline (functions.inc.hpp); the table is for tests.
#pragma once

#include <cstddef>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

// n a multiple of 8.
struct FunctionKernels {
    void (*exp)(Index n, const double* x, double* y);
    void (*log)(Index n, const double* x, double* y);
    void (*erfcx)(Index n, const double* x, double* y);
    void (*ndtr)(Index n, const double* x, double* y);
    void (*log_ndtr)(Index n, const double* x, double* y);
};

}  // namespace flatcore::simd
