#include "core/block_vectors.hpp"

#include <algorithm>
#include <cmath>

#include "core/errors.hpp"
#include "core/matrix_product.hpp"
#include "core/parallel.hpp"

namespace flatcore {

namespace {

// body(first column, number of columns) over chunks of N.
template <class Body>
void for_chunks(Index N, const Body& body) {
    for (Index j = 0; j < N; j += kChunk) body(j, std::min(kChunk, N - j));
}

// A well-mixed 64-bit function of a counter (the finaliser of SplitMix64, Steele, Lea & Flood 2014).
std::uint64_t mixed(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15ULL;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
    return x ^ (x >> 31);
}

double uniform(std::uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1.0p-53; }

}  // namespace

template <class T>
void gram(ConstMatrixView<T> V, ConstMatrixView<T> W, MatrixView<double> out, RunControl& control) {
    require(V.cols == W.cols && out.rows == V.rows && out.cols == W.rows, "gram of ", V.rows, "x", V.cols, " and ",
            W.rows, "x", W.cols, " into ", out.rows, "x", out.cols);
    out.eigen().setZero();
    if (out.empty()) return;
    Matrix<T> part(V.rows, W.rows);
    for_chunks(V.cols, [&](Index j, Index width) {
        multiply<T>(T(1), V.col_block(j, width), W.col_block(j, width).transposed(), T(0), part.view(), control);
        out.eigen() += part.view().eigen().template cast<double>();
    });
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
    const ConstMatrixView<T> c = coefficients.view();
    Matrix<T> image(C.cols, std::min(kChunk, V.cols));
    for_chunks(V.cols, [&](Index j, Index width) {
        const auto target = image.view().col_block(0, width);
        multiply<T>(T(1), c.transposed(), V.col_block(j, width), T(0), target, control);
        V.row_block(0, C.cols).col_block(j, width).eigen() = target.eigen();
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
    template void fill_normal<T>(MatrixView<T>, std::uint64_t);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
