// Kernels compiled once for each instruction set, chosen at run time.
//
//   <set>.cpp             one file a set: avx512, avx2, baseline (SSE2 or NEON, as the compiler assumes). It defines
//                         the vector length, opens a namespace of its own and includes the kernel headers there.
//   kernels.inc.hpp       includes them all and makes the table.
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

#include "core/simd/amp.hpp"
#include "core/simd/committee.hpp"
#include "core/simd/edges.hpp"
#include "core/simd/functions.hpp"
#include "core/simd/magnitude.hpp"
#include "core/simd/node.hpp"
#include "core/simd/online.hpp"
#include "core/simd/small_chain.hpp"

namespace flatcore {

// How a matrix entry is stored.
enum class Scalar { f32, f64, f16, bf16 };

constexpr std::size_t size_of(Scalar scalar) { return scalar == Scalar::f64 ? 8 : scalar == Scalar::f32 ? 4 : 2; }

namespace simd {

using Index = std::ptrdiff_t;

// How `dots` reads the rows of W: in aligned vectors, the first of which starts `shift` entries before the row; where
// rows lie differently to the vectors, or are shorter than one, shift = 0. X is packed to match, into `packed` columns
// with zeros before its first and behind its last one. Rows that are converted, or short, are `copied` first. A sum
// does not depend on the shift: entries whose places differ by a multiple of `lanes` are added in their order, and the
// sum over the lanes is the same for all rotations (only a zero may change its sign).
struct RowCut {
    Index n, lanes, shift, packed;
    bool copied;
};

// A chunk of packed rows of X has kDotChunk columns, of which a block of rows stays in the first cache: enough for
// kDotColumns columns, 2 kB, with any shift.
template <class T>
constexpr Index kDotColumns = 2048 / static_cast<Index>(sizeof(T));
template <class T>
constexpr Index kDotChunk = (2048 + 2 * 64) / static_cast<Index>(sizeof(T));

template <class T>
struct SkinnyKernels {
    // C (m × n) += X W, W: p × n row-major as stored; xt: Xᵀ, p × m with leading dimension ldx. Fastest where rows of C
    // lie to the cache lines as those of W do.
    void (*accumulate)(Scalar stored, Index m, Index p, Index n, const T* xt, Index ldx, const void* w, Index ldw, T* c,
                       Index ldc);
    // C (m × n) = [C +] Lᵀ R, L: p × m, R: p × n with few rows p; C is written past the caches where `stream`.
    void (*outer)(Index m, Index p, Index n, const T* l, Index ldl, const T* r, Index ldr, T* c, Index ldc, bool add,
                  bool stream);
    // C (m × p) += X Wᵀ, W: p × n row-major as stored, C with strides row and 1. x: X packed as `cut` says, in chunks,
    // each an m × kDotChunk<T> row-major piece.
    void (*dots)(Scalar stored, Index m, Index p, const RowCut& cut, const T* x, const void* w, Index ldw, T* c,
                 Index ldc);
    // C (m × cut.packed) += scale X Wᵀ W for m <= normal_rows, W: p >= 1 rows as stored; x: X packed as `cut` says, in
    // rows of cut.packed entries, as C is.
    void (*normal)(Scalar stored, Index m, Index p, const RowCut& cut, const T* x, const void* w, Index ldw, T scale,
                   T* c);
    Index lanes, normal_rows;
};

struct Table {
    const char* name;
    SkinnyKernels<float> skinny32;
    SkinnyKernels<double> skinny64;
    MagnitudeKernels magnitude;
    SmallChainKernels<float> chain32;
    SmallChainKernels<double> chain64;
    CommitteeKernels<float> committee32;
    CommitteeKernels<double> committee64;
    BitKernels bits;
    OnlineKernels online;
    FunctionKernels functions;
    EdgeKernels edges;
    NodeKernels node;
    AmpKernels<float> amp32;
    AmpKernels<double> amp64;
};

// The one in use.
const Table& table();

template <class T>
const SkinnyKernels<T>& skinny();

// The cut for rows of n entries stored from `w` on, `ldw` entries apart.
template <class T>
RowCut row_cut(const SkinnyKernels<T>& kernels, Scalar stored, Index n, const void* w, Index ldw) {
    constexpr Index size = static_cast<Index>(sizeof(T));
    const Index lanes = kernels.lanes, past = static_cast<Index>(reinterpret_cast<std::uintptr_t>(w)) % (lanes * size);
    const bool copied = size_of(stored) != sizeof(T) || n < lanes;
    const bool alike = past % size == 0 && ldw % lanes == 0;
    const Index shift = alike && !copied ? past / size : 0;
    return {n, lanes, shift, (shift + n + lanes - 1) / lanes * lanes, copied};
}

}  // namespace simd
}  // namespace flatcore
