#include "core/normal_product.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"
#include "core/skinny.hpp"

namespace flatcore {

namespace {

constexpr Index kModulusEntries = Index{1} << 24;  // between checkpoints

}  // namespace

template <class T>
void normal_product(T scale, const StoredMatrix& A, ConstMatrixView<T> X, MatrixView<T> Y, RunControl& control) {
    require(X.cols == A.cols && Y.cols == A.cols && X.rows == Y.rows, "normal product of ", A.rows, "x", A.cols,
            " with ", X.rows, "x", X.cols, " into ", Y.rows, "x", Y.cols);
    const bool readable = A.scalar != Scalar::f64 || sizeof(T) == sizeof(double);
    if (X.rows <= kSkinnyRows && A.col_stride == 1 && readable) {
        skinny_normal<T>(scale, X, A, Y, control);
        return;
    }
    Matrix<T> image(X.rows, A.rows);
    multiply_stored<T>(X, A.transposed(), T(0), image.view(), control);
    image.view().eigen() *= scale;
    multiply_stored<T>(image.view(), A, T(0), Y, control);
    Y.eigen() *= scale;
}

template <class T>
double largest_modulus(ConstMatrixView<T> A, RunControl& control) {
    const ConstMatrixView<T> rows = A.col_stride == 1 ? A : A.transposed();
    require(rows.col_stride == 1 || rows.cols <= 1, "the largest modulus needs a view with one unit stride");
    const Index group = std::max<Index>(1, kModulusEntries / std::max<Index>(1, rows.cols));
    double largest = 0.0;
    for (Index i = 0; i < rows.rows; i += group) {
        const Index count = std::min(group, rows.rows - i);
        std::vector<T> sizes(static_cast<std::size_t>(count));
        parallel_ranges(count, std::max<Index>(1, (Index{1} << 16) / std::max<Index>(1, rows.cols)),
                        [&](Index first, Index last) {
                            for (Index r = first; r < last; ++r)
                                sizes[static_cast<std::size_t>(r)] =
                                    simd::skinny<T>().largest(rows.cols, rows.row_block(i + r, 1).data);
                        });
        for (const T size : sizes) {
            if (std::isnan(size)) return std::numeric_limits<double>::quiet_NaN();
            largest = std::max(largest, static_cast<double>(size));
        }
        control.checkpoint();
    }
    return largest;
}

#define FLATCORE_INSTANTIATE(T)                                                                              \
    template void normal_product<T>(T, const StoredMatrix&, ConstMatrixView<T>, MatrixView<T>, RunControl&); \
    template double largest_modulus<T>(ConstMatrixView<T>, RunControl&);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
