#include "core/normal_product.hpp"

#include "core/errors.hpp"
#include "core/skinny.hpp"

namespace flatcore {

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

#define FLATCORE_INSTANTIATE(T) \
    template void normal_product<T>(T, const StoredMatrix&, ConstMatrixView<T>, MatrixView<T>, RunControl&);
FLATCORE_INSTANTIATE(float)
FLATCORE_INSTANTIATE(double)
#undef FLATCORE_INSTANTIATE

}  // namespace flatcore
