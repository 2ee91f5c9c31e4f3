// Products with a skinny operand (few rows), for threads and caches; the register blocks are in core/simd.
//
//   accumulate  C = alpha X W + beta C     X: m × p, W: p × n row-major, threads over W's rows where many, else columns
//   dots        C = alpha X Wᵀ + beta C    X: m × n, W: p × n row-major, threads over the rows of W
//   pair        C += X D, E += Y Dᵀ        D: p × n row-major, read once, threads over the rows of D
//   normal      Y = scale² X WᵀW           X, Y: m × n, W: p × n row-major, read once, threads over the rows of W; with
//                                          few rows one pass multiplies new rows and uses up the ones before
//   outer       C = alpha Lᵀ R + beta C    L: p × m, R: p × n, few rows p, threads over the rows of C, which is written
//                                          past the caches where it is large
// W may be stored in any precision; what is not T is converted in the first cache.
//
// cost    2·m·p·n flops, one read of W (or one write of C); X and C stay in cache. Below about m = 6 rows the memory is
//         the limit, above about m = 20 the arithmetic.
// memory  a packed copy of X (of L none); where threads share the rows of W, a private C or Y for every thread. Their
//         sum depends on the number of threads; nothing else does, and nothing depends on an address.
#pragma once

#include "core/matrix_product.hpp"
#include "core/simd/simd.hpp"

namespace flatcore {

// Most rows of an operand that these kernels take from BLAS.
constexpr Index kSkinnyRows = 160;

constexpr double kFlopsPerThread = 1e6;  // below this a second thread costs more than it saves

// One chunk of alpha X (m × kDotChunk<T>) as the kernel `dots` reads it.
template <class T>
void pack_rows(T alpha, ConstMatrixView<T> X, const simd::RowCut& cut, Index chunk, T* out);

// C = alpha A B + beta C where one of these forms fits; false, and nothing done, where BLAS should do it.
template <class T>
bool skinny_product(T alpha, ConstMatrixView<T> A, const StoredMatrix& B, T beta, MatrixView<T> C, RunControl& control);

template <class T>
void skinny_pair(ConstMatrixView<T> X, ConstMatrixView<T> Y, ConstMatrixView<T> D, MatrixView<T> C, MatrixView<T> E,
                 RunControl& control);

// W row-major, of a precision that T holds; scale is applied twice, so that products of large entries stay in range.
template <class T>
void skinny_normal(T scale, ConstMatrixView<T> X, const StoredMatrix& W, MatrixView<T> Y, RunControl& control);

}  // namespace flatcore
