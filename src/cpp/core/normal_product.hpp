// The normal product Y = s² X AᵀA.
//
//   A: m × n as stored,  X, Y: b × n, rows are vectors,  s: a scale that keeps squares within range.
//
// A row-major matrix is read once, in tiles that stay in cache between their two products (core/skinny.hpp); otherwise,
// as where b is large, it is two products. Any stored precision: float32 matrices have float64 normal products.
//
// cost    4·b·m·n flops, one read of A (two where it is column-major).
// Call outside parallel regions.
// source  docs/theory.md, "Top-k SVD, counted".
#pragma once

#include "core/matrix_product.hpp"

namespace flatcore {

template <class T>
void normal_product(T scale, const StoredMatrix& A, ConstMatrixView<T> X, MatrixView<T> Y, RunControl& control);

}  // namespace flatcore
