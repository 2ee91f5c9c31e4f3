// The normal product Y = s² X AᵀA, reading A once.
//
//   A: m × n as stored,  X, Y: b × n, rows are vectors,  s: a scale that keeps squares within range.
//
// A passes by in row panels A_i that stay in cache between the two products of each:  P_i = s X A_iᵀ,  Y += s P_i A_i.
// A panel stored in another precision than T is converted first, so float32 matrices have float64 normal products.
//
// cost    4·b·m·n flops, one read of A (a product with A and one with Aᵀ would read it twice).
// Call outside parallel regions: BLAS brings its own threads.
// source  docs/theory.md, "Top-k SVD, counted".
#pragma once

#include "core/matrix_product.hpp"

namespace flatcore {

template <class T>
void normal_product(T scale, const StoredMatrix& A, ConstMatrixView<T> X, MatrixView<T> Y, RunControl& control);

// max |a_ij|, NaN where an entry is NaN or infinite; one read.
template <class T>
double largest_modulus(ConstMatrixView<T> A, RunControl& control);

}  // namespace flatcore
