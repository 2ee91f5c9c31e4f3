#include "core/matrix_product.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/errors.hpp"
#include "core/lapack.hpp"
#include "core/parallel.hpp"
#include "core/skinny.hpp"
#include "core/symmetric_eigenvalues.hpp"

namespace flatcore {

namespace {

constexpr double kFlopsBetweenCheckpoints = 1e10;

int blas_int(Index n) {
    require(n <= std::numeric_limits<int>::max(), "a dimension of ", n, " exceeds BLAS's 32-bit integers");
    return static_cast<int>(n);
}

void gemm(char ta, char tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb,
          float beta, float* c, int ldc) {
    lapack().sgemm(&ta, &tb, &m, &n, &k, &alpha, const_cast<float*>(a), &lda, const_cast<float*>(b), &ldb, &beta, c,
                   &ldc);
}
void gemm(char ta, char tb, int m, int n, int k, double alpha, const double* a, int lda, const double* b, int ldb,
          double beta, double* c, int ldc) {
    lapack().dgemm(&ta, &tb, &m, &n, &k, &alpha, const_cast<double*>(a), &lda, const_cast<double*>(b), &ldb, &beta, c,
                   &ldc);
}

// One operand as column-major BLAS sees it: its flag and leading dimension.
struct Operand {
    char flag;
    int leading;
};

// 'N' where the view is column-major (row_stride 1), 'T' where it is row-major. A vector may have any stride; its
// stride along the dimension of size 1 means nothing.
template <class T>
Operand operand(MatrixView<T> A) {
    const bool one_row = A.rows == 1 && A.col_stride != 1;
    const bool column_major = (A.row_stride == 1 || one_row) && (A.col_stride >= A.rows || A.cols == 1);
    if (column_major) return {'N', blas_int(std::max({A.col_stride, A.rows, Index{1}}))};
    require((A.col_stride == 1 || A.cols == 1) && (A.row_stride >= A.cols || A.rows == 1),
            "a matrix product needs a view with one unit stride, got strides ", A.row_stride, ", ", A.col_stride);
    return {'T', blas_int(std::max({A.row_stride, A.cols, Index{1}}))};
}

}  // namespace

template <class T>
void multiply(T alpha, ConstMatrixView<T> A, ConstMatrixView<T> B, T beta, MatrixView<T> C, RunControl& control) {
    require(A.cols == B.rows && A.rows == C.rows && B.cols == C.cols, "matrix product of ", A.rows, "x", A.cols,
            " and ", B.rows, "x", B.cols, " into ", C.rows, "x", C.cols);
    if (C.empty()) return;
    if (A.cols > 0) {
        const StoredMatrix stored{B.data, scalar_of<T>(), B.rows, B.cols, B.row_stride, B.col_stride};
        const StoredMatrix left{A.data, scalar_of<T>(), A.rows, A.cols, A.row_stride, A.col_stride};
        // C = A B or Cᵀ = Bᵀ Aᵀ, whichever is row-major.
        if (skinny_product<T>(alpha, A, stored, beta, C, control) ||
            skinny_product<T>(alpha, B.transposed(), left.transposed(), beta, C.transposed(), control))
            return;
    }
    const Operand c = operand(C);
    if (c.flag == 'T') {  // row-major C: column-major BLAS computes Cᵀ = Bᵀ Aᵀ
        multiply<T>(alpha, B.transposed(), A.transposed(), beta, C.transposed(), control);
        return;
    }
    if (A.cols == 0) {
        if (beta == T(0))
            C.eigen().setZero();
        else
            C.eigen() *= beta;
        return;
    }
    const Operand a = operand(A), b = operand(B);
    const double flops_per_column = 2.0 * static_cast<double>(A.rows) * static_cast<double>(A.cols);
    const Index panel = std::max<Index>(1, static_cast<Index>(kFlopsBetweenCheckpoints / flops_per_column));
    for (Index j = 0; j < C.cols; j += panel) {
        const Index width = std::min(panel, C.cols - j);
        gemm(a.flag, b.flag, blas_int(C.rows), blas_int(width), blas_int(A.cols), alpha, A.data, a.leading,
             B.col_block(j, width).data, b.leading, beta, C.col_block(j, width).data, c.leading);
        control.checkpoint();
    }
}

// visit(view of the entries in their own type).
template <class Visit>
void with_entries(const StoredMatrix& W, const Visit& visit) {
    switch (W.scalar) {
        case Scalar::f32:
            return visit(W.as<float>());
        case Scalar::f64:
            return visit(W.as<double>());
        case Scalar::f16:
            return visit(W.as<Eigen::half>());
        case Scalar::bf16:
            return visit(W.as<Eigen::bfloat16>());
    }
}

template <class T>
Matrix<T> StoredMatrix::converted() const {
    Matrix<T> out(rows, cols);
    with_entries(*this, [&](auto source) {
        parallel_ranges(rows, std::max<Index>(1, (Index{1} << 16) / std::max<Index>(1, cols)),
                        [&](Index first, Index last) {
                            out.view().row_block(first, last - first).eigen() =
                                source.row_block(first, last - first).eigen().template cast<T>();
                        });
    });
    return out;
}

template <class T>
void multiply_stored(ConstMatrixView<T> A, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control) {
    if (W.scalar == scalar_of<T>()) {
        multiply<T>(T(1), A, W.as<T>(), beta, C, control);
        return;
    }
    require(A.cols == W.rows && A.rows == C.rows && W.cols == C.cols, "matrix product of ", A.rows, "x", A.cols,
            " and ", W.rows, "x", W.cols, " into ", C.rows, "x", C.cols);
    if (W.rows == 0) {
        multiply<T>(T(1), A, ConstMatrixView<T>(nullptr, 0, W.cols), beta, C, control);
        return;
    }
    if (skinny_product<T>(T(1), A, W, beta, C, control)) return;
    // Panels of whole stored rows: each is one contiguous piece of the stored weights, converted into a buffer that
    // stays in cache for the product that follows. One thread converts: BLAS's own threads are still warm.
    const bool row_major = W.col_stride == 1;
    const StoredMatrix stored = row_major ? W : W.transposed();
    const Index panel = std::max<Index>(1, std::min(stored.rows, kPanelEntries / std::max<Index>(1, stored.cols)));
    Matrix<T> buffer(panel, stored.cols);
    for (Index i = 0; i < stored.rows; i += panel) {
        const Index rows = std::min(panel, stored.rows - i);
        const MatrixView<T> converted = buffer.view().row_block(0, rows);
        with_entries(stored,
                     [&](auto entries) { converted.eigen() = entries.row_block(i, rows).eigen().template cast<T>(); });
        if (row_major)
            multiply<T>(T(1), A.col_block(i, rows), converted, i == 0 ? beta : T(1), C, control);
        else
            multiply<T>(T(1), A, converted.transposed(), beta, C.col_block(i, rows), control);
    }
}

template <class T>
double spectral_norm(ConstMatrixView<T> A, RunControl& control) {
    if (A.empty()) return 0.0;
    const StoredMatrix stored{A.data, scalar_of<T>(), A.rows, A.cols, A.row_stride, A.col_stride};
    Matrix<double> wide = (A.rows <= A.cols ? stored : stored.transposed()).template converted<double>();
    const double scale = wide.view().eigen().cwiseAbs().maxCoeff<Eigen::PropagateNaN>();
    if (scale == 0.0 || !std::isfinite(scale)) return scale;
    wide.view().eigen() /= scale;  // so that the squares neither overflow nor vanish
    const ConstMatrixView<double> scaled = wide.view();
    Matrix<double> gram(wide.rows(), wide.rows());
    multiply<double>(1.0, scaled, scaled.transposed(), 0.0, gram.view(), control);
    const std::vector<double> values = symmetric_eigenvalues(std::move(gram), control);
    return scale * std::sqrt(std::max(0.0, values.back()));
}

template void multiply<float>(float, ConstMatrixView<float>, ConstMatrixView<float>, float, MatrixView<float>,
                              RunControl&);
template void multiply<double>(double, ConstMatrixView<double>, ConstMatrixView<double>, double, MatrixView<double>,
                               RunControl&);
template Matrix<float> StoredMatrix::converted<float>() const;
template Matrix<double> StoredMatrix::converted<double>() const;
template void multiply_stored<float>(ConstMatrixView<float>, const StoredMatrix&, float, MatrixView<float>,
                                     RunControl&);
template void multiply_stored<double>(ConstMatrixView<double>, const StoredMatrix&, double, MatrixView<double>,
                                      RunControl&);
template double spectral_norm<float>(ConstMatrixView<float>, RunControl&);
template double spectral_norm<double>(ConstMatrixView<double>, RunControl&);

}  // namespace flatcore
