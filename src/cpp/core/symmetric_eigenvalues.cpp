#include "core/symmetric_eigenvalues.hpp"

#include <limits>
#include <string>

#include "core/errors.hpp"
#include "core/lapack.hpp"

namespace flatcore {

std::vector<double> symmetric_eigenvalues(Matrix<double> A, RunControl& control) {
    require(A.rows() == A.cols(), "eigenvalues of a ", A.rows(), "x", A.cols(), " matrix; expected a square one");
    require(A.rows() <= std::numeric_limits<int>::max(), "a dimension of ", A.rows(),
            " exceeds LAPACK's 32-bit integers");
    control.checkpoint();
    if (A.rows() == 0) return {};
    char job = 'N', uplo = 'U';
    int n = static_cast<int>(A.rows()), lwork = -1, liwork = -1, info = 0, iwork_size = 0;
    double work_size = 0.0;
    std::vector<double> values(static_cast<std::size_t>(n));
    const auto call = [&](double* work, int* iwork) {
        lapack().dsyevd(&job, &uplo, &n, A.data(), &n, values.data(), work, &lwork, iwork, &liwork, &info);
    };
    call(&work_size, &iwork_size);
    lwork = static_cast<int>(work_size);
    liwork = iwork_size;
    std::vector<double> work(static_cast<std::size_t>(lwork));
    std::vector<int> iwork(static_cast<std::size_t>(liwork));
    call(work.data(), iwork.data());
    if (info != 0) throw NumericalFailure("dsyevd did not converge (info " + std::to_string(info) + ")");
    control.checkpoint();
    return values;
}

}  // namespace flatcore
