#include "core/svd.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "core/errors.hpp"
#include "core/lapack.hpp"

namespace flatcore {

namespace {
GesddFunction<float>* gesdd(float) { return lapack().sgesdd; }
GesddFunction<double>* gesdd(double) { return lapack().dgesdd; }
}  // namespace

template <class T>
ThinSvd<T> thin_svd(Matrix<T> A, RunControl& control) {
    const Index p = A.rows(), q = A.cols(), r = std::min(p, q);
    require(r > 0, "the singular values of an empty matrix are undefined");
    require(std::max(p, q) <= std::numeric_limits<int>::max(), "a dimension of ", std::max(p, q),
            " exceeds LAPACK's 32-bit integers");
    ThinSvd<T> out{Matrix<T>(p, r), std::vector<T>(static_cast<std::size_t>(r)), Matrix<T>(r, q)};
    control.checkpoint();
    // Row-major A is column-major Aᵀ = V diag(s) Uᵀ, so LAPACK's left vectors are our V and its right ones our U.
    char job = 'S';
    int rows = static_cast<int>(q), cols = static_cast<int>(p), rank = static_cast<int>(r), lwork = -1, info = 0;
    std::vector<int> iwork(static_cast<std::size_t>(8 * r));
    T size{};
    const auto call = [&](T* work) {
        gesdd(T{})(&job, &rows, &cols, A.data(), &rows, out.s.data(), out.Vt.data(), &rows, out.U.data(), &rank, work,
                   &lwork, iwork.data(), &info);
    };
    call(&size);
    // A float32 work size loses its last digits above 2^24: round up.
    require(static_cast<double>(size) < 2e9, "the decomposition of a ", p, "x", q, " matrix needs a workspace of ",
            size, " entries, more than LAPACK's 32-bit integers can say");
    lwork = static_cast<int>(static_cast<double>(size) * (1.0 + 4.0 * std::numeric_limits<float>::epsilon())) + 1;
    std::vector<T> work(static_cast<std::size_t>(lwork));
    call(work.data());
    if (info < 0) throw InvalidArgument("gesdd met NaN or a bad argument (info " + std::to_string(info) + ")");
    if (info > 0) throw NumericalFailure("gesdd did not converge (info " + std::to_string(info) + ")");
    control.checkpoint();
    return out;
}

template ThinSvd<float> thin_svd<float>(Matrix<float>, RunControl&);
template ThinSvd<double> thin_svd<double>(Matrix<double>, RunControl&);

}  // namespace flatcore
