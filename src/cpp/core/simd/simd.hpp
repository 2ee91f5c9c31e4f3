// Kernels compiled once for each instruction set, chosen at run time.
//
//   <set>.cpp             one file a set: avx512, avx2, baseline (SSE2 or NEON, as the compiler assumes). It defines
//                         the vector length, opens a namespace of its own and includes the kernel headers there.
//   *.inc.hpp             the kernels, written once on compiler vectors. They include no Eigen and no standard-library
//                         templates: such code, compiled under two sets of flags, shares symbols, and the linker keeps
//                         either.
//   simd.cpp              detects the processor and picks a table. FLATCORE_SIMD = baseline | avx2 | avx512 asks for a
//                         lower set than the best one (for tests).
//
// The skinny kernels work on pieces that the caller cuts (core/skinny.hpp cuts for threads and caches); they allocate
// nothing and start no threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/simd/small_chain.hpp"

namespace flatcore {

// How a matrix entry is stored.
enum class Scalar { f32, f64, f16, bf16 };

constexpr std::size_t size_of(Scalar scalar) { return scalar == Scalar::f64 ? 8 : scalar == Scalar::f32 ? 4 : 2; }

namespace simd {

using Index = std::ptrdiff_t;

// Columns of one packed chunk of the left operand of `dots`: 2 kB of each row, so that a row block stays in the first
// cache.
template <class T>
constexpr Index kDotChunk = 2048 / static_cast<Index>(sizeof(T));

template <class T>
struct SkinnyKernels {
    // C (m × n) += X W, W: p × n row-major as stored; xt: Xᵀ, p × m with leading dimension ldx.
    void (*accumulate)(Scalar stored, Index m, Index p, Index n, const T* xt, Index ldx, const void* w, Index ldw, T* c,
                       Index ldc);
    // C (m × n) = [C +] Lᵀ R, L: p × m, R: p × n with few rows p; C is written past the caches where `stream`.
    void (*outer)(Index m, Index p, Index n, const T* l, Index ldl, const T* r, Index ldr, T* c, Index ldc, bool add,
                  bool stream);
    // C (m × p) += X Wᵀ, W: p × n row-major as stored, C with strides row and 1. x: X cut into chunks of kDotChunk<T>
    // columns, each an m × kDotChunk<T> row-major piece, the last one padded with zeros.
    void (*dots)(Scalar stored, Index m, Index p, Index n, const T* x, const void* w, Index ldw, T* c, Index ldc);
    // max |x_i|; NaN where an entry is NaN or infinite.
    T (*largest)(Index n, const T* x);
};

struct Table {
    const char* name;
    SkinnyKernels<float> skinny32;
    SkinnyKernels<double> skinny64;
    SmallChainKernels<float> chain32;
    SmallChainKernels<double> chain64;
};

// The one in use.
const Table& table();

template <class T>
const SkinnyKernels<T>& skinny();

}  // namespace simd
}  // namespace flatcore
