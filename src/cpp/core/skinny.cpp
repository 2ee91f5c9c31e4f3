#include "core/skinny.hpp"

#include <algorithm>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore {

namespace {

constexpr double kFlopsBetweenCheckpoints = 5e9;
constexpr Index kGroup = 64;                              // columns are dealt to threads in multiples of this
constexpr Index kRowsPerSum = 4;                          // rows of W for each row of a thread's own sum
constexpr Index kLongRun = Index{1} << 14;                // columns for each thread that memory streams as fast as rows
constexpr Index kTile = 64;                               // most rows that stay in cache between two products
constexpr std::size_t kTileBytes = std::size_t{1} << 19;  // and their size: a quarter of a second-level cache
constexpr Index kStreamEntries = Index{1} << 19;          // outputs larger than this are written past the caches

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
    constexpr Index kBlock = 16;  // a cache line of each row of X is used at once
    Matrix<T> out(X.cols, X.rows);
    parallel_ranges((X.cols + kBlock - 1) / kBlock, kEntriesPerThread / (kBlock * std::max<Index>(1, X.rows)) + 1,
                    [&](Index first, Index last) {
                        for (Index k = first * kBlock; k < std::min(last * kBlock, X.cols); k += kBlock)
                            for (Index i = 0; i < X.rows; ++i)
                                for (Index e = k; e < std::min(k + kBlock, X.cols); ++e)
                                    out.data()[e * X.rows + i] = alpha * X(i, e);
                    });
    return out;
}

template <class T>
Matrix<T> packed_rows(T alpha, ConstMatrixView<T> X, const simd::RowCut& cut) {
    const Index chunks = (cut.packed + simd::kDotChunk<T> - 1) / simd::kDotChunk<T>;
    Matrix<T> out(chunks * X.rows, simd::kDotChunk<T>);
    parallel_ranges(chunks, kEntriesPerThread / (simd::kDotChunk<T> * std::max<Index>(1, X.rows)) + 1,
                    [&](Index first, Index last) {
                        for (Index chunk = first; chunk < last; ++chunk)
                            pack_rows(alpha, X, cut, chunk, out.data() + chunk * X.rows * simd::kDotChunk<T>);
                    });
    return out;
}

template <class T>
simd::RowCut cut_of(const StoredMatrix& W) {
    return simd::row_cut(simd::skinny<T>(), W.scalar, W.cols, W.data, W.row_stride);
}

// Uninitialised rows that start `shift` entries behind an aligned one, as those of W may.
template <class T>
class ShiftedRows {
 public:
    ShiftedRows(Index rows, Index cols, Index shift)
        : storage_(rows, (shift + cols + kLine - 1) / kLine * kLine), shift_(shift), cols_(cols) {}
    MatrixView<T> view() { return storage_.view().col_block(shift_, cols_); }

 private:
    static constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));
    Matrix<T> storage_;
    Index shift_, cols_;
};

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
void dots(T alpha, ConstMatrixView<T> X, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control) {
    scale(beta, C);
    const simd::RowCut cut = cut_of<T>(W);
    const Matrix<T> x = packed_rows(alpha, X, cut);
    const double per_row = 2.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(W.rows, per_row, control, [&](Index first_row, Index rows) {
        parallel_ranges(rows, grain_of(per_row), [&](Index first, Index last) {
            const Index r = first_row + first;
            simd::skinny<T>().dots(W.scalar, X.rows, last - first, cut, x.data(), entry(W, r, 0), W.row_stride,
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

// tile(first, rows, sum) over [0, n) in tiles of at most kTile rows that fit kTileBytes. Every thread adds to a sum of
// its own, shifted as the rows of W are, and their total is added to C.
template <class T, class Tile>
void sum_over_pieces(Index n, Index grain, std::size_t row_bytes, Index shift, MatrixView<T> C, const Tile& tile) {
    const Index most =
        std::clamp<Index>(static_cast<Index>(kTileBytes / std::max<std::size_t>(1, row_bytes)), 8, kTile);
    const Index pieces = parallel_pieces(n, grain);
    std::vector<ShiftedRows<T>> sums;
    for (Index p = 0; p < pieces; ++p) sums.emplace_back(C.rows, C.cols, shift);
    parallel_pieces_of(n, pieces, [&](Index piece, Index first, Index last) {
        const MatrixView<T> own = sums[static_cast<std::size_t>(piece)].view();
        own.eigen().setZero();
        for (Index r = first; r < last; r += most) tile(r, std::min(most, last - r), own);
    });
    for (ShiftedRows<T>& sum : sums) C.eigen() += sum.view().eigen();
}

// Threads share the rows of W, each with a sum of its own, where that sum is small beside its part of W: they then read
// long runs of memory. Otherwise, and where the runs are long all the same, they share the columns.
template <class T>
void accumulate(T alpha, ConstMatrixView<T> X, const StoredMatrix& W, T beta, MatrixView<T> C, RunControl& control) {
    scale(beta, C);
    const Matrix<T> xt = transposed_copy(alpha, X);
    const auto piece = [&](Index k, Index depth, Index j, Index n, MatrixView<T> sum) {
        simd::skinny<T>().accumulate(W.scalar, X.rows, depth, n, xt.data() + k * X.rows, X.rows, entry(W, k, j),
                                     W.row_stride, sum.data + j, sum.row_stride);
    };
    const double per_row = 2.0 * static_cast<double>(X.rows) * static_cast<double>(C.cols);
    if (W.rows >= kRowsPerSum * X.rows * max_threads() && C.cols < kLongRun * max_threads()) {
        in_pieces(W.rows, per_row, control, [&](Index first_row, Index rows) {
            sum_over_pieces(
                rows, grain_of(per_row), 1, cut_of<T>(W).shift, C,
                [&](Index first, Index count, MatrixView<T> sum) { piece(first_row + first, count, 0, C.cols, sum); });
        });
        return;
    }
    const double per_column = 2.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(C.cols, per_column, control, [&](Index first_column, Index columns) {
        const Index groups = (columns + kGroup - 1) / kGroup;
        parallel_ranges(groups, grain_of(per_column * kGroup), [&](Index first, Index last) {
            const Index j = first * kGroup, n = std::min(last * kGroup, columns) - j;
            piece(0, X.cols, first_column + j, n, C);
        });
    });
}

// skinny_normal for few rows: each thread's rows of W in one pass of its own.
template <class T>
void few_normal(T scale, ConstMatrixView<T> X, const StoredMatrix& W, const simd::RowCut& cut, MatrixView<T> Y,
                RunControl& control) {
    Matrix<T> x = Matrix<T>::zeros(X.rows, cut.packed);
    x.view().col_block(cut.shift, X.cols).eigen() = scale * X.eigen();
    const double per_row = 4.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(W.rows, per_row, control, [&](Index first_row, Index count) {
        const Index pieces = parallel_pieces(count, grain_of(per_row));
        std::vector<Matrix<T>> sums;
        for (Index p = 0; p < pieces; ++p) sums.emplace_back(X.rows, cut.packed);
        parallel_pieces_of(count, pieces, [&](Index piece, Index first, Index last) {
            Matrix<T>& own = sums[static_cast<std::size_t>(piece)];
            own.view().eigen().setZero();
            simd::skinny<T>().normal(W.scalar, X.rows, last - first, cut, x.data(), entry(W, first_row + first, 0),
                                     W.row_stride, scale, own.data());
        });
        for (Matrix<T>& sum : sums) Y.eigen() += sum.view().col_block(cut.shift, X.cols).eigen();
    });
}

template <class View>
bool row_major(const View& A) {
    return A.col_stride == 1 || A.cols <= 1;
}

}  // namespace

template <class T>
void pack_rows(T alpha, ConstMatrixView<T> X, const simd::RowCut& cut, Index chunk, T* out) {
    const Index begin = chunk * simd::kDotChunk<T> - cut.shift;  // the column of the chunk's first entry
    const Index first = std::max<Index>(0, -begin), last = std::min(simd::kDotChunk<T>, X.cols - begin);
    for (Index i = 0; i < X.rows; ++i, out += simd::kDotChunk<T>) {
        const T* row = X.data + i * X.row_stride;
        std::fill_n(out, first, T(0));
        if (X.col_stride == 1)
            for (Index e = first; e < last; ++e) out[e] = alpha * row[begin + e];
        else
            for (Index e = first; e < last; ++e) out[e] = alpha * row[(begin + e) * X.col_stride];
        std::fill(out + last, out + simd::kDotChunk<T>, T(0));
    }
}

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
    if (A.cols <= kSkinnyRows && B.cols > 1 && B.scalar == scalar_of<T>() && row_major(A.transposed()) &&
        row_major(B)) {
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
    const Matrix<T> xt = transposed_copy(T(1), X);
    const simd::RowCut cut = cut_of<T>({D.data, scalar_of<T>(), D.rows, D.cols, D.row_stride, D.col_stride});
    const Matrix<T> y = packed_rows(T(1), Y, cut);
    const double per_row = 2.0 * static_cast<double>(X.rows + Y.rows) * static_cast<double>(D.cols);
    sum_over_pieces(D.rows, grain_of(per_row), static_cast<std::size_t>(D.cols) * sizeof(T), cut.shift, C,
                    [&](Index r, Index rows, MatrixView<T> own) {
                        const T* tile = D.data + r * D.row_stride;
                        simd::skinny<T>().dots(scalar_of<T>(), Y.rows, rows, cut, y.data(), tile, D.row_stride,
                                               E.data + r, E.row_stride);
                        simd::skinny<T>().accumulate(scalar_of<T>(), X.rows, rows, D.cols, xt.data() + r * X.rows,
                                                     X.rows, tile, D.row_stride, own.data, own.row_stride);
                    });
    control.checkpoint();
}

template <class T>
void skinny_normal(T scale, ConstMatrixView<T> X, const StoredMatrix& W, MatrixView<T> Y, RunControl& control) {
    require(X.rows <= kSkinnyRows && X.cols == W.cols && Y.rows == X.rows && Y.cols == X.cols && row_major(W) &&
                row_major(Y),
            "a normal product of ", X.rows, "x", X.cols, " with ", W.rows, "x", W.cols);
    Y.eigen().setZero();
    if (X.rows == 0 || X.cols == 0) return;
    const simd::RowCut cut = cut_of<T>(W);
    // Twice the few: two passes over half the bytes take less than one that widens them twice.
    const Index few = simd::skinny<T>().normal_rows, most = size_of(W.scalar) < sizeof(T) ? 2 * few : few;
    if (X.rows <= most) {
        for (Index i = 0; i < X.rows; i += few) {
            const Index rows = std::min(few, X.rows - i);
            few_normal(scale, X.row_block(i, rows), W, cut, Y.row_block(i, rows), control);
        }
        return;
    }
    const Matrix<T> x = packed_rows(scale, X, cut);
    const double per_row = 4.0 * static_cast<double>(X.rows) * static_cast<double>(X.cols);
    in_pieces(W.rows, per_row, control, [&](Index first_row, Index count) {
        sum_over_pieces(count, grain_of(per_row), static_cast<std::size_t>(W.cols) * size_of(W.scalar), cut.shift, Y,
                        [&](Index r, Index rows, MatrixView<T> own) {
                            T image[kTile * kSkinnyRows], transposed[kTile * kSkinnyRows];  // X Wᵀ for a tile of W
                            std::fill_n(image, kTile * X.rows, T(0));
                            const void* tile = entry(W, first_row + r, 0);
                            simd::skinny<T>().dots(W.scalar, X.rows, rows, cut, x.data(), tile, W.row_stride, image,
                                                   kTile);
                            for (Index i = 0; i < X.rows; ++i)
                                for (Index k = 0; k < rows; ++k)
                                    transposed[k * X.rows + i] = scale * image[i * kTile + k];
                            simd::skinny<T>().accumulate(W.scalar, X.rows, rows, X.cols, transposed, X.rows, tile,
                                                         W.row_stride, own.data, own.row_stride);
                        });
    });
}

#define FLATCORE_INSTANTIATE(T)                                                                                 \
    template void pack_rows<T>(T, ConstMatrixView<T>, const simd::RowCut&, Index, T*);                          \
    template bool skinny_product<T>(T, ConstMatrixView<T>, const StoredMatrix&, T, MatrixView<T>, RunControl&); \
    template void skinny_pair<T>(ConstMatrixView<T>, ConstMatrixView<T>, ConstMatrixView<T>, MatrixView<T>,     \
                                 MatrixView<T>, RunControl&);                                                   \
    template void skinny_normal<T>(T, ConstMatrixView<T>, const StoredMatrix&, MatrixView<T>, RunControl&);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
