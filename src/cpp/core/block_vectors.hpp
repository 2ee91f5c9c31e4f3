// Block-vector operations of the eigensolvers, on host memory.
//
// A block of vectors is a row-major matrix whose rows are the vectors: V is c × N, W is b × N, N long. Small matrices
// are float64 whatever T is, and sums over N are gathered in float64 over chunks of at most kChunk columns, so a
// float32 basis is orthogonalised with coefficients good to about eps(float32) / sqrt(N / kChunk) of their size.
//
// cost    gram, update: 2·c·b·N flops, one read of V and W (update also writes W);  combine: 2·c·r·N flops. Threads
//         share N. They run at the speed of memory up to about b = 8 (core/skinny.hpp).
#pragma once

#include <cstdint>

#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore {

constexpr Index kChunk = 4096;

// out (c × b) = V Wᵀ.
template <class T>
void gram(ConstMatrixView<T> V, ConstMatrixView<T> W, MatrixView<double> out, RunControl& control);

// W -= Cᵀ V, C: c × b.
template <class T>
void update(MatrixView<T> W, ConstMatrixView<T> V, ConstMatrixView<double> C, RunControl& control);

// The first r rows of V become Cᵀ V, C: c × r with r <= c, in place.
template <class T>
void combine(MatrixView<T> V, ConstMatrixView<double> C, RunControl& control);

// out (b × N) = V, a matrix of N rows: vectors that arrive as columns become rows.
template <class T>
void to_rows(ConstMatrixView<T> V, MatrixView<T> out);

// Independent standard normal entries; entry (i, j) depends on seed, i·N + j alone, never on the threads.
template <class T>
void fill_normal(MatrixView<T> V, std::uint64_t seed);

}  // namespace flatcore
