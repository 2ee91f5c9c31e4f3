// Kernels of online learning: one pattern's bits against one unit's weights, on one thread.
//
//   n inputs at one bit each, the lowest first, bit 1 for ξ = +1, in ⌈n/32⌉ words whose last one is padded with zeros.
//   Weights w and hidden integers H are padded with zeros to whole words, 32·⌈n/32⌉ entries, and stay so.
//
//   differing:  Σ_i [a_i ≠ b_i]                   of sign words, so that Σ ξ_i sgn(H_i) = n − 2·differing
//   dot:        Σ_i ξ_i w_i
//   add:        w_i += c ξ_i
//   turn:       H_i += step ξ_i; signs: bit i says H_i > 0
//
// cost  dot, add: about 3 vector operations on 64/8 (AVX-512), 32/8, 16/8 weights; differing: n/64 words counted
#pragma once

#include <cstddef>
#include <cstdint>

namespace flatcore::simd {

struct OnlineKernels {
    std::ptrdiff_t (*differing)(std::ptrdiff_t words, const std::uint32_t* a, const std::uint32_t* b);
    double (*dot)(std::ptrdiff_t words, const std::uint32_t* bits, const double* w);
    void (*add)(std::ptrdiff_t n, const std::uint32_t* bits, double c, double* w);
    void (*turn)(std::ptrdiff_t n, const std::uint32_t* bits, std::int32_t step, std::int32_t* H, std::uint32_t* signs);
};

const OnlineKernels& online();

}  // namespace flatcore::simd
