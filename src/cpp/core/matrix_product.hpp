// Matrix products C = alpha A B + beta C through the BLAS seam, and products with weights of another precision.
//
//   A: p × q,  B: q × r,  C: p × r; each view has one unit stride (row- or column-major, any leading dimension).
//
// cost    2pqr flops. Work above about 0.1 s is cut into row panels of C with a checkpoint between them.
// memory  none, except that a weight stored in another precision is converted panel by panel (at most kPanelEntries
//         entries at a time), so a float32 layer takes part in a float64 product without a float64 copy.
// Call outside parallel regions, but for products that the skinny kernels take whole: BLAS brings its own threads.
#pragma once

#include "core/run_control.hpp"
#include "core/simd/simd.hpp"
#include "core/views.hpp"

namespace flatcore {

template <class T>
void multiply(T alpha, ConstMatrixView<T> A, ConstMatrixView<T> B, T beta, MatrixView<T> C, RunControl& control);

template <class T>
constexpr Scalar scalar_of() {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
    return std::is_same_v<T, float> ? Scalar::f32 : Scalar::f64;
}

// A read-only matrix whose precision is known only at run time: a layer's weights, as stored.
struct StoredMatrix {
    const void* data = nullptr;
    Scalar scalar = Scalar::f64;
    Index rows = 0, cols = 0;
    Index row_stride = 0, col_stride = 1;

    StoredMatrix transposed() const { return {data, scalar, cols, rows, col_stride, row_stride}; }
    template <class T>
    ConstMatrixView<T> as() const {
        return {static_cast<const T*>(data), rows, cols, row_stride, col_stride};
    }
    // The entries as a new matrix of precision T.
    template <class T>
    Matrix<T> converted() const;
};

constexpr Index kPanelEntries = Index{1} << 16;

// C = A W + beta C, accumulated in T whatever the precision of W.
template <class T>
void multiply_stored(ConstMatrixView<T> A, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control);

// Largest singular value of A (p × q) from the smaller Gram matrix in float64, relative error of order eps; NaN or
// infinity where A holds one.
// cost 2·p·q·min(p, q) + (4/3)·min(p, q)³ flops.
template <class T>
double spectral_norm(ConstMatrixView<T> A, RunControl& control);

}  // namespace flatcore
