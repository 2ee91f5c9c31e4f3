#include "core/skinny.hpp"

#include <algorithm>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore {

namespace {

constexpr double kFlopsBetweenCheckpoints = 5e9;
constexpr double kFlopsPerThread = 2e5;           // below this a second thread costs more than it saves
constexpr Index kGroup = 64;                      // columns are dealt to threads in multiples of this
constexpr Index kStreamEntries = Index{1} << 19;  // outputs larger than this are written past the caches

const void* entry(const StoredMatrix& W, Index i, Index j) {
    return static_cast<const char*>(W.data) +
           static_cast<std::size_t>(i * W.row_stride + j * W.col_stride) * size_of(W.scalar);
}

// The smallest piece of `n` units, each of `flops`, worth a thread.
Index grain_of(double flops) { return static_cast<Index>(kFlopsPerThread / std::max(flops, 1.0)) + 1; }

template <class T>
void scale(T beta, MatrixView<T> C) {
    if (beta == T(0))
        C.eigen().setZero();
    else if (beta != T(1))
        C.eigen() *= beta;
}

// alpha Xᵀ, row-major.
template <class T>
Matrix<T> transposed_copy(T alpha, ConstMatrixView<T> X) {
    Matrix<T> out(X.cols, X.rows);
    for (Index i = 0; i < X.rows; ++i)
        for (Index k = 0; k < X.cols; ++k) out.data()[k * X.rows + i] = alpha * X(i, k);
    return out;
}

// alpha X in chunks of simd::kDotChunk columns, each row-major, the last one padded with zeros.
template <class T>
Matrix<T> chunked_copy(T alpha, ConstMatrixView<T> X) {
    const Index chunks = (X.cols + simd::kDotChunk - 1) / simd::kDotChunk;
    Matrix<T> out(chunks * X.rows, simd::kDotChunk);
    T* to = out.data();
    for (Index j = 0; j < X.cols; j += simd::kDotChunk) {
        const Index width = std::min(simd::kDotChunk, X.cols - j);
        for (Index i = 0; i < X.rows; ++i, to += simd::kDotChunk) {
            for (Index e = 0; e < width; ++e) to[e] = alpha * X(i, j + e);
            std::fill(to + width, to + simd::kDotChunk, T(0));
        }
    }
    return out;
}

// piece(first, count) over [0, n), each of at most kFlopsBetweenCheckpoints, with a checkpoint after each.
template <class Piece>
void in_pieces(Index n, double flops_per_unit, RunControl& control, const Piece& piece) {
    const Index most = std::max(kGroup, static_cast<Index>(kFlopsBetweenCheckpoints / std::max(flops_per_unit, 1.0)));
    for (Index first = 0; first < n; first += most) {
        piece(first, std::min(most, n - first));
        control.checkpoint();
    }
}

template <class T>
void accumulate(T alpha, ConstMatrixView<T> X, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control) {
    scale(beta, C);
    const Matrix<T> xt = transposed_copy(alpha, X);
    const double per_column = 2.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(C.cols, per_column, control, [&](Index first_column, Index columns) {
        const Index groups = (columns + kGroup - 1) / kGroup;
        parallel_ranges(groups, grain_of(per_column * kGroup), [&](Index first, Index last) {
            const Index j = first_column + first * kGroup;
            const Index n = std::min(last * kGroup, columns) - first * kGroup;
            simd::skinny<T>().accumulate(W.scalar, X.rows, X.cols, n, xt.data(), X.rows, entry(W, 0, j), W.row_stride,
                                         C.data + j, C.row_stride);
        });
    });
}

template <class T>
void dots(T alpha, ConstMatrixView<T> X, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control) {
    scale(beta, C);
    const Matrix<T> x = chunked_copy(alpha, X);
    const double per_row = 2.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(W.rows, per_row, control, [&](Index first_row, Index rows) {
        parallel_ranges(rows, grain_of(per_row), [&](Index first, Index last) {
            const Index r = first_row + first;
            simd::skinny<T>().dots(W.scalar, X.rows, last - first, X.cols, x.data(), entry(W, r, 0), W.row_stride,
                                   C.data + r, C.row_stride);
        });
    });
}

template <class T>
void outer(T alpha, ConstMatrixView<T> L, ConstMatrixView<T> R, T beta, MatrixView<T> C, RunControl& control) {
    const bool add = beta != T(0);
    if (add) scale(beta, C);
    Matrix<T> scaled;
    if (alpha != T(1)) {
        scaled = Matrix<T>(L.rows, L.cols);
        scaled.view().eigen() = alpha * L.eigen();
        L = scaled.view();
    }
    const double per_row = 2.0 * static_cast<double>(L.rows) * static_cast<double>(R.cols);
    const bool stream = C.rows * C.cols >= kStreamEntries;
    in_pieces(C.rows, per_row, control, [&](Index first_row, Index rows) {
        parallel_ranges(rows, grain_of(per_row), [&](Index first, Index last) {
            const Index i = first_row + first;
            simd::skinny<T>().outer(last - first, L.rows, R.cols, L.data + i, L.row_stride, R.data, R.row_stride,
                                    C.data + i * C.row_stride, C.row_stride, add, stream);
        });
    });
}

template <class View>
bool row_major(const View& A) {
    return A.col_stride == 1 || A.cols <= 1;
}

}  // namespace

template <class T>
bool skinny_product(T alpha, ConstMatrixView<T> A, const StoredMatrix& B, T beta, MatrixView<T> C,
                    RunControl& control) {
    if (!row_major(C) || (B.scalar == Scalar::f64 && sizeof(T) == 4)) return false;
    if (A.rows <= kSkinnyRows) {
        if (row_major(B)) {
            accumulate(alpha, A, B, beta, C, control);
            return true;
        }
        if (row_major(B.transposed())) {
            dots(alpha, A, B.transposed(), beta, C, control);
            return true;
        }
        return false;
    }
    if (A.cols <= kSkinnyRows && B.scalar == scalar_of<T>() && row_major(A.transposed()) && row_major(B)) {
        outer(alpha, A.transposed(), B.as<T>(), beta, C, control);
        return true;
    }
    return false;
}

template <class T>
void skinny_pair(ConstMatrixView<T> X, ConstMatrixView<T> Y, ConstMatrixView<T> D, MatrixView<T> C, MatrixView<T> E,
                 RunControl& control) {
    require(X.cols == D.rows && Y.cols == D.cols && C.rows == X.rows && C.cols == D.cols && E.rows == Y.rows &&
                E.cols == D.rows && D.col_stride == 1 && C.col_stride == 1 && E.col_stride == 1,
            "a pair of products of ", X.rows, "x", X.cols, " and ", Y.rows, "x", Y.cols, " with ", D.rows, "x", D.cols);
    constexpr Index kTile = 64;  // rows of D that stay in cache between the two products
    const Matrix<T> xt = transposed_copy(T(1), X);
    const Matrix<T> y = chunked_copy(T(1), Y);
    const double per_row = 2.0 * static_cast<double>(X.rows + Y.rows) * static_cast<double>(D.cols);
    const Index grain = grain_of(per_row);
    const Index pieces = parallel_pieces(D.rows, grain);
    std::vector<Matrix<T>> sums;
    for (Index p = 1; p < pieces; ++p) sums.push_back(Matrix<T>(C.rows, C.cols));
    parallel_pieces_of(D.rows, pieces, [&](Index piece, Index first, Index last) {
        const MatrixView<T> own = piece == 0 ? C : sums[static_cast<std::size_t>(piece - 1)].view();
        if (piece > 0) own.eigen().setZero();
        for (Index r = first; r < last; r += kTile) {
            const Index rows = std::min(kTile, last - r);
            const T* tile = D.data + r * D.row_stride;
            simd::skinny<T>().dots(scalar_of<T>(), Y.rows, rows, D.cols, y.data(), tile, D.row_stride, E.data + r,
                                   E.row_stride);
            simd::skinny<T>().accumulate(scalar_of<T>(), X.rows, rows, D.cols, xt.data() + r * X.rows, X.rows, tile,
                                         D.row_stride, own.data, own.row_stride);
        }
    });
    for (const Matrix<T>& sum : sums) C.eigen() += sum.view().eigen();
    control.checkpoint();
}

#define FLATCORE_INSTANTIATE(T)                                                                                 \
    template bool skinny_product<T>(T, ConstMatrixView<T>, const StoredMatrix&, T, MatrixView<T>, RunControl&); \
    template void skinny_pair<T>(ConstMatrixView<T>, ConstMatrixView<T>, ConstMatrixView<T>, MatrixView<T>,     \
                                 MatrixView<T>, RunControl&);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
