#include "core/block_vectors.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/errors.hpp"
#include "core/matrix_product.hpp"
#include "core/mixed.hpp"
#include "core/parallel.hpp"
#include "core/skinny.hpp"

namespace flatcore {

namespace {

constexpr Index kPackedEntries = 8192;  // of a packed block: 32 or 64 kB
constexpr Index kCombined = 512;        // columns combined at a time

// Vectors are cut into pieces for threads at multiples of a chunk, none with less work than a thread is worth: `read`
// entries and `multiplied` pairs of them in each column.
Index pieces_of(Index N, Index chunk, Index read, Index multiplied) {
    const double worth = std::max(static_cast<double>(read) / static_cast<double>(kEntriesPerThread),
                                  2.0 * static_cast<double>(multiplied) / kFlopsPerThread);
    return parallel_pieces((N + chunk - 1) / chunk, static_cast<Index>(1.0 / (static_cast<double>(chunk) * worth)) + 1);
}

// body(piece, first column, number of columns) over all chunks, each piece of them on one thread.
template <class Body>
void for_chunks(Index N, Index chunk, Index pieces, const Body& body) {
    parallel_pieces_of((N + chunk - 1) / chunk, pieces, [&](Index piece, Index first, Index last) {
        for (Index c = first; c < last; ++c) body(piece, c * chunk, std::min(chunk, N - c * chunk));
    });
}

double uniform(std::uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1.0p-53; }

}  // namespace

template <class T>
void gram(ConstMatrixView<T> V, ConstMatrixView<T> W, MatrixView<double> out, RunControl& control) {
    require(V.cols == W.cols && out.rows == V.rows && out.cols == W.rows, "gram of ", V.rows, "x", V.cols, " and ",
            W.rows, "x", W.cols, " into ", out.rows, "x", out.cols);
    out.eigen().setZero();
    if (out.empty()) return;
    const bool few = W.rows <= V.rows;  // the smaller block is packed, the larger one streams
    const ConstMatrixView<T> packed = few ? W : V, streamed = few ? V : W;
    require(streamed.col_stride == 1 || streamed.cols == 1, "gram needs contiguous vectors");
    // As many columns at a time as keep the packed block in the first cache: long runs of the streamed vectors.
    const Index whole = kPackedEntries / packed.rows / simd::kDotColumns<T>;
    const Index packs = std::clamp<Index>(whole, 1, kChunk / simd::kDotColumns<T>);
    const Index chunk = packs * simd::kDotColumns<T>;
    const Index pieces = pieces_of(V.cols, chunk, V.rows + W.rows, V.rows * W.rows);
    std::vector<Matrix<double>> sums;
    std::vector<Matrix<T>> buffers, parts;
    for (Index p = 0; p < pieces; ++p) {
        sums.push_back(Matrix<double>::zeros(packed.rows, streamed.rows));
        buffers.emplace_back(packs * packed.rows, simd::kDotChunk<T>);
        parts.emplace_back(packed.rows, streamed.rows);
    }
    for_chunks(V.cols, chunk, pieces, [&](Index piece, Index first, Index width) {
        const auto at = static_cast<std::size_t>(piece);
        const MatrixView<T> part = parts[at].view();
        const ConstMatrixView<T> stream = streamed.col_block(first, width);
        const simd::RowCut cut =
            simd::row_cut(simd::skinny<T>(), scalar_of<T>(), width, stream.data, stream.row_stride);
        for (Index pack = 0; pack * simd::kDotChunk<T> < cut.packed; ++pack)
            pack_rows(T(1), packed.col_block(first, width), cut, pack,
                      buffers[at].data() + pack * packed.rows * simd::kDotChunk<T>);
        part.eigen().setZero();
        simd::skinny<T>().dots(scalar_of<T>(), packed.rows, streamed.rows, cut, buffers[at].data(), stream.data,
                               stream.row_stride, part.data, part.row_stride);
        sums[at].view().eigen() += part.eigen().template cast<double>();
    });
    control.checkpoint();
    for (const Matrix<double>& sum : sums) {
        if (few)
            out.eigen() += sum.view().eigen().transpose();
        else
            out.eigen() += sum.view().eigen();
    }
}

template <class T>
void update(MatrixView<T> W, ConstMatrixView<T> V, ConstMatrixView<double> C, RunControl& control) {
    require(V.cols == W.cols && C.rows == V.rows && C.cols == W.rows, "update of ", W.rows, "x", W.cols, " by ", C.rows,
            "x", C.cols, " times ", V.rows, "x", V.cols);
    Matrix<T> coefficients(C.rows, C.cols);
    coefficients.view().eigen() = C.eigen().template cast<T>();
    const ConstMatrixView<T> c = coefficients.view();
    multiply<T>(T(-1), c.transposed(), V, T(1), W, control);
}

template <class T>
void combine(MatrixView<T> V, ConstMatrixView<double> C, RunControl& control) {
    require(C.rows == V.rows && C.cols <= V.rows, "combine of ", V.rows, " rows with ", C.rows, "x", C.cols);
    Matrix<T> coefficients(C.rows, C.cols);
    coefficients.view().eigen() = C.eigen().template cast<T>();
    if (C.cols == 0 || V.cols == 0) return;
    require(V.col_stride == 1 || V.cols <= 1, "combine needs contiguous vectors");
    const Index pieces = pieces_of(V.cols, kCombined, C.rows + C.cols, C.rows * C.cols);
    std::vector<Matrix<T>> images;
    for (Index p = 0; p < pieces; ++p) images.emplace_back(C.cols, kCombined);
    for_chunks(V.cols, kCombined, pieces, [&](Index piece, Index first, Index width) {
        const auto image = images[static_cast<std::size_t>(piece)].view().col_block(0, width);
        const auto source = V.col_block(first, width);
        image.eigen().setZero();
        simd::skinny<T>().accumulate(scalar_of<T>(), C.cols, C.rows, width, coefficients.data(), C.cols, source.data,
                                     source.row_stride, image.data, image.row_stride);
        source.row_block(0, C.cols).eigen() = image.eigen();
    });
    control.checkpoint();
}

template <class T>
void to_rows(ConstMatrixView<T> V, MatrixView<T> out) {
    require(out.rows == V.cols && out.cols == V.rows, "rows of ", V.rows, "x", V.cols, " into ", out.rows, "x",
            out.cols);
    constexpr Index kTile = 256;  // entries of each vector written together
    parallel_ranges((V.rows + kTile - 1) / kTile, 64, [&](Index first, Index last) {
        for (Index i = first * kTile; i < std::min(last * kTile, V.rows); i += kTile) {
            const Index count = std::min(kTile, V.rows - i);
            out.col_block(i, count).eigen() = V.row_block(i, count).eigen().transpose();
        }
    });
}

template <class T>
void fill_normal(MatrixView<T> V, std::uint64_t seed) {
    const std::uint64_t stream = mixed(seed ^ 0xD1B54A32D192ED03ULL);
    const auto columns = static_cast<std::uint64_t>(V.cols);
    parallel_ranges(V.cols, Index{1} << 14, [&](Index first, Index last) {
        for (Index i = 0; i < V.rows; ++i) {
            for (Index j = first; j < last; ++j) {  // Box–Muller, one normal a counter
                const std::uint64_t counter = static_cast<std::uint64_t>(i) * columns + static_cast<std::uint64_t>(j);
                const double radius = std::sqrt(-2.0 * std::log(uniform(mixed(stream + 2 * counter))));
                const double angle = 2.0 * 3.14159265358979323846 * uniform(mixed(stream + 2 * counter + 1));
                V(i, j) = static_cast<T>(radius * std::cos(angle));
            }
        }
    });
}

#define FLATCORE_INSTANTIATE(T)                                                                       \
    template void gram<T>(ConstMatrixView<T>, ConstMatrixView<T>, MatrixView<double>, RunControl&);   \
    template void update<T>(MatrixView<T>, ConstMatrixView<T>, ConstMatrixView<double>, RunControl&); \
    template void combine<T>(MatrixView<T>, ConstMatrixView<double>, RunControl&);                    \
    template void to_rows<T>(ConstMatrixView<T>, MatrixView<T>);                                      \
    template void fill_normal<T>(MatrixView<T>, std::uint64_t);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
