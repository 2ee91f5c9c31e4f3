// Kernels of one small chain on one thread: its Hessian product, sums of matrix products, and vector operations.
//
// The product is the narrow-end form of core/hessian.hpp for matrices that fit the first caches. Levels 0 … M run from
// the narrow end; link s = 1 … M is the e_{s-1} × e_s matrix U_s that takes rows from level s − 1 to level s (W or Wᵀ):
//
//   dnear_s = dnear_{s-1} U_s + near_{s-1} D_s,   dnear_0 = 0
//   σ_M     = dnear_M diag(metric)                                   (metric absent: scale·I)
//   out_s   = near_{s-1}ᵀ σ_s + dnear_{s-1}ᵀ far_s,   σ_{s-1} = σ_s U_sᵀ + far_s D_sᵀ
//
// Matrices are row-major; rows are padded with zeros to whole vectors of `lanes` entries, and the products keep the
// padding zero. The left operand of a product is read entry by entry and may have any strides; the right one and the
// result run along vectors. That is why σ is computed transposed, from U, D and farᵀ as they lie, and then turned.
//
// cost  6M − 4 products of 2·m·e_{s-1}·e_s flops (6M − 6 where near_0 = I), and M transpositions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/mixed.hpp"

namespace flatcore::simd {

using Index = std::ptrdiff_t;

// A (m × depth, any strides) times B (depth × n, row-major with leading dimension ldb).
template <class T>
struct Term {
    const T* a;
    Index a_row, a_col;
    const T* b;
    Index ldb, depth;
};

// Arrays are indexed by level or link, 0 … M; link, far and offset by 1 … M.
template <class T>
struct SmallChain {
    Index depth = 0, m = 0;
    const Index* width = nullptr;   // e_0 … e_M
    const Index* padded = nullptr;  // the same in whole vectors: leading dimensions
    Index m_padded = 0;
    const Index* offset = nullptr;         // of block s, e_{s-1} × padded[s], in a vector
    const T* const* link = nullptr;        // U_s
    const T* const* near = nullptr;        // m × e_s; near[0] is null where it is the identity
    const T* const* far = nullptr;         // m × e_s; null where the products are Gauss–Newton's
    const T* const* far_turned = nullptr;  // e_s × m
    const T* metric = nullptr;             // e_M entries, padded, or null
    T scale = T(1);
    T* const* dnear = nullptr;  // scratch: m × e_s, s = 1 … M
    T* sigma = nullptr;         // scratch: m × the widest level
    T* sigma_turned[2] = {};    // scratch: the widest level × m
};

template <class T>
struct SmallChainKernels {
    int lanes;
    double (*hessian)(const SmallChain<T>& chain, const T* D, T* out);  // out = H D; their inner product
    // C (m × n, n a multiple of lanes) = Σ of one or two terms.
    void (*multiply)(Index m, Index n, const Term<T>* terms, int count, T* c, Index ldc);
    // The n × m transpose of A (m × n), padded with zeros to ldt columns, a multiple of lanes.
    void (*turn)(Index m, Index n, const T* a, Index lda, T* turned, Index ldt);
    // Of vectors of n entries, n a multiple of lanes. Sums in chunks of T, chunks in double.
    double (*dot)(Index n, const T* x, const T* y);
    double (*recur)(Index n, T alpha, const T* q, T beta, const T* p, T* w);  // w −= α q + β p; ‖w‖²; p may be null
    void (*add)(Index n, T alpha, const T* x, T* y);                          // y += α x
    void (*scale)(Index n, T alpha, const T* x, T* y);                        // y = α x
    void (*round)(Index n, const double* x, T* y);                            // y = x in this precision
    // On [−1, 1]: entries 2i and 2i + 1 from the bits of counter + i (core/mixed.hpp).
    void (*uniform)(Index n, std::uint64_t counter, T* x);
};

template <class T>
const SmallChainKernels<T>& small_chain();

}  // namespace flatcore::simd
