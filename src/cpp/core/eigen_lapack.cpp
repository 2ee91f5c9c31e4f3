#include "core/eigen_lapack.hpp"

#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace flatcore {

namespace {

template <class T>
using ColMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
template <class T>
using FortranMatrix = Eigen::Map<ColMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

template <class T>
FortranMatrix<T> fortran(T* data, int rows, int cols, int leading) {
    return {data, rows, cols, Eigen::OuterStride<>(leading)};
}

void check(bool ok, const char* routine, int position) {
    if (!ok) throw std::logic_error(std::string(routine) + ": argument " + std::to_string(position) + " is wrong");
}

// op(A), written to `copy` where it is transposed: one product serves every combination of flags.
template <class T>
FortranMatrix<T> plain(bool transposed, T* data, int rows, int cols, int leading, ColMajor<T>& copy) {
    if (!transposed) return fortran(data, rows, cols, leading);
    copy = fortran(data, cols, rows, leading).transpose();
    return fortran(copy.data(), rows, cols, rows);
}

template <class T>
void gemm(char* flag_a, char* flag_b, int* m, int* n, int* k, T* alpha, T* a, int* lda, T* b, int* ldb, T* beta, T* c,
          int* ldc) {
    const bool ta = *flag_a != 'N', tb = *flag_b != 'N';
    check(*flag_a == 'N' || *flag_a == 'T' || *flag_a == 'C', "gemm", 1);
    check(*flag_b == 'N' || *flag_b == 'T' || *flag_b == 'C', "gemm", 2);
    check(*m >= 0, "gemm", 3);
    check(*n >= 0, "gemm", 4);
    check(*k >= 0, "gemm", 5);
    check(*lda >= std::max(1, ta ? *k : *m), "gemm", 8);
    check(*ldb >= std::max(1, tb ? *n : *k), "gemm", 10);
    check(*ldc >= std::max(1, *m), "gemm", 13);
    if (*m == 0 || *n == 0) return;
    FortranMatrix<T> C = fortran(c, *m, *n, *ldc);
    if (*beta == T(0))
        C.setZero();  // C is not read: it may be uninitialised
    else
        C *= *beta;
    if (*k == 0 || *alpha == T(0)) return;
    ColMajor<T> a_copy, b_copy;
    const FortranMatrix<T> A = plain(ta, a, *m, *k, *lda, a_copy), B = plain(tb, b, *k, *n, *ldb, b_copy);
    C.noalias() += *alpha * (A * B);
}

template <class T>
void gesdd(char* job, int* m, int* n, T* a, int* lda, T* s, T* u, int* ldu, T* vt, int* ldvt, T* work, int* lwork,
           int* iwork, int* info) {
    check(*job == 'S', "gesdd", 1);
    check(*m >= 0, "gesdd", 2);
    check(*n >= 0, "gesdd", 3);
    const int r = std::min(*m, *n);
    check(*lda >= std::max(1, *m), "gesdd", 5);
    check(*ldu >= std::max(1, *m), "gesdd", 8);
    check(*ldvt >= std::max(1, r), "gesdd", 10);
    const int needed = 4 * r * r + 7 * r + std::max(*m, *n);
    *info = 0;
    if (*lwork == -1) {
        work[0] = static_cast<T>(needed);
        return;
    }
    check(*lwork >= needed, "gesdd", 12);
    std::fill_n(work, *lwork, T(0));
    std::fill_n(iwork, 8 * r, 0);
    FortranMatrix<T> A = fortran(a, *m, *n, *lda);
    if (A.hasNaN()) {
        *info = -4;
        return;
    }
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(A.template cast<double>(), Eigen::ComputeThinU | Eigen::ComputeThinV);
    Eigen::Map<ColMajor<T>>(s, r, 1) = svd.singularValues().template cast<T>();
    fortran(u, *m, r, *ldu) = svd.matrixU().template cast<T>();
    fortran(vt, r, *n, *ldvt) = svd.matrixV().transpose().template cast<T>();
    A.setConstant(std::numeric_limits<T>::quiet_NaN());
}

void dsyevd(char* job, char* uplo, int* n, double* a, int* lda, double* w, double* work, int* lwork, int* iwork,
            int* liwork, int* info) {
    check(*job == 'N', "dsyevd", 1);
    check(*uplo == 'U' || *uplo == 'L', "dsyevd", 2);
    check(*n >= 0, "dsyevd", 3);
    check(*lda >= std::max(1, *n), "dsyevd", 5);
    const int needed = *n <= 1 ? 1 : 2 * *n + 1;
    *info = 0;
    if (*lwork == -1 || *liwork == -1) {
        work[0] = needed;
        iwork[0] = 1;
        return;
    }
    check(*lwork >= needed, "dsyevd", 8);
    check(*liwork >= 1, "dsyevd", 10);
    std::fill_n(work, *lwork, 0.0);
    std::fill_n(iwork, *liwork, 0);
    FortranMatrix<double> A = fortran(a, *n, *n, *lda);
    Eigen::MatrixXd full(*n, *n);  // one triangle of A is read
    if (*uplo == 'U')
        full = A.selfadjointView<Eigen::Upper>();
    else
        full = A.selfadjointView<Eigen::Lower>();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(full, Eigen::EigenvaluesOnly);
    if (solver.info() != Eigen::Success) {
        *info = 1;
        return;
    }
    std::copy_n(solver.eigenvalues().data(), *n, w);
    A.setConstant(std::numeric_limits<double>::quiet_NaN());
}

}  // namespace

LapackTable eigen_lapack() {
    LapackTable table;
    table.sgemm = gemm<float>;
    table.dgemm = gemm<double>;
    table.sgesdd = gesdd<float>;
    table.dgesdd = gesdd<double>;
    table.dsyevd = dsyevd;
    return table;
}

}  // namespace flatcore
