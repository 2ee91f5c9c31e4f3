#include <doctest/doctest.h>

#include <Eigen/SVD>
#include <cstring>

#include "core/eigen_lapack.hpp"
#include "core/fortran_lapack.hpp"
#include "core/matrix_product.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

struct Shape {
    Index p, q, r;
};
constexpr Shape kShapes[] = {{3, 4, 5}, {1, 4, 5}, {3, 4, 1}, {1, 7, 1}, {3, 1, 5},
                             {5, 0, 3}, {1, 1, 1}, {4, 4, 4}, {1, 1, 6}, {6, 1, 1}};

// Rounding of a sum of q products and two scalings: at most (q + 3) eps times the sum of moduli.
template <class T>
double product_tolerance(double alpha, const Dense& A, const Dense& B, double beta, const Dense& C) {
    const double moduli = max_abs(plain_product(A.cwiseAbs(), B.cwiseAbs()));
    const double old = beta == 0.0 ? 0.0 : std::abs(beta) * max_abs(C);
    return static_cast<double>(A.cols() + 3) * eps<T>() * (std::abs(alpha) * moduli + old);
}

template <class T>
void check_multiply(const Shape& shape, Layout a, Layout b, Layout c, double alpha, double beta) {
    CAPTURE(shape.p);
    CAPTURE(shape.q);
    CAPTURE(shape.r);
    CAPTURE(static_cast<int>(a));
    CAPTURE(static_cast<int>(b));
    CAPTURE(static_cast<int>(c));
    CAPTURE(beta);
    const Dense A = random_dense(shape.p, shape.q, 1), B = random_dense(shape.q, shape.r, 2);
    const Dense C = random_dense(shape.p, shape.r, 3);
    const Stored<T> stored_a(A, a), stored_b(B, b), stored_c(beta == 0.0 ? filled(shape.p, shape.r, kNaN) : C, c);
    RunControl control;
    multiply<T>(static_cast<T>(alpha), stored_a.read(), stored_b.read(), static_cast<T>(beta), stored_c.view(),
                control);
    Dense expected = alpha * plain_product(A, B);
    if (beta != 0.0) expected += beta * C;
    CHECK(max_difference(dense(stored_c.view()), expected) <= product_tolerance<T>(alpha, A, B, beta, C));
    CHECK(stored_c.count_nan() == stored_c.padding());
}

// op(A) op(B) + beta C straight from the table, with leading dimensions larger than needed.
template <class T>
void check_table_gemm(GemmFunction<T>* gemm, char ta, char tb, T beta) {
    int m = 3, n = 4, k = 5;
    const Dense A = random_dense(m, k, 4), B = random_dense(k, n, 5), C = random_dense(m, n, 6);
    const Stored<T> a(ta == 'N' ? A : Dense(A.transpose()), Layout::col_padded);
    const Stored<T> b(tb == 'N' ? B : Dense(B.transpose()), Layout::col_padded);
    const Stored<T> c(beta == T(0) ? filled(m, n, kNaN) : C, Layout::col_padded);
    int lda = static_cast<int>(a.view().col_stride), ldb = static_cast<int>(b.view().col_stride);
    int ldc = static_cast<int>(c.view().col_stride);
    T alpha = T(-0.5);
    gemm(&ta, &tb, &m, &n, &k, &alpha, a.view().data, &lda, b.view().data, &ldb, &beta, c.view().data, &ldc);
    Dense expected = -0.5 * plain_product(A, B);
    if (beta != T(0)) expected += static_cast<double>(beta) * C;
    CHECK(max_difference(dense(c.view()), expected) <= product_tolerance<T>(-0.5, A, B, static_cast<double>(beta), C));
}

}  // namespace

TEST_CASE_TEMPLATE("the test table's gemm computes every flag combination", T, float, double) {
    const LapackTable table = eigen_lapack();
    GemmFunction<T>* gemm;
    if constexpr (std::is_same_v<T, float>)
        gemm = table.sgemm;
    else
        gemm = table.dgemm;
    for (const char ta : {'N', 'T', 'C'})
        for (const char tb : {'N', 'T', 'C'})
            for (const T beta : {T(0), T(1), T(0.25)}) check_table_gemm<T>(gemm, ta, tb, beta);
}

TEST_CASE_TEMPLATE("multiply agrees with the definition over all layouts", T, float, double) {
    for (const Shape& shape : kShapes)
        for (const Layout a : kLayouts)
            for (const Layout b : kLayouts)
                for (const Layout c : kLayouts)
                    for (const double beta : {0.0, 1.0, 0.25}) check_multiply<T>(shape, a, b, c, -1.5, beta);
}

TEST_CASE("multiply takes blocks and transposes of larger matrices") {
    const Dense A = random_dense(6, 7, 1), B = random_dense(5, 7, 2);
    const Stored<double> a(A, Layout::row), b(B, Layout::col), c(Dense::Zero(5, 6), Layout::row);
    RunControl control;
    // C[1:3, 2:6]ᵀ = A[1:5, 2:6] B[0:2, 1:5]ᵀ; the rest of C stays zero.
    const auto target = c.view().row_block(1, 2).col_block(2, 4).transposed();
    multiply<double>(1.0, a.read().row_block(1, 4).col_block(2, 4),
                     b.read().row_block(0, 2).col_block(1, 4).transposed(), 0.0, target, control);
    Dense expected = Dense::Zero(5, 6);
    const Dense left = A.block(1, 2, 4, 4), right = B.block(0, 1, 2, 4).transpose();
    expected.block(1, 2, 2, 4) = plain_product(left, right).transpose();
    // seven roundings of sums of moduli below 4·3²
    CHECK(max_difference(dense(c.view()), expected) <= 7 * eps<double>() * 36);
}

TEST_CASE("multiply into a single entry works for any strides") {
    RunControl control;
    const double a = 3.0, b = 5.0;
    double c = 7.0;
    const Index strides[] = {1, 4, 9};
    for (const Index s : strides) {
        for (const Index t : strides) {
            CAPTURE(s);
            CAPTURE(t);
            multiply<double>(2.0, {&a, 1, 1, s, t}, {&b, 1, 1, t, s}, 0.0, {&c, 1, 1, s, t}, control);
            CHECK(c == 30.0);
        }
    }
}

TEST_CASE("multiply reads a vector of any stride") {
    RunControl control;
    const Dense A = random_dense(4, 12, 1), B = random_dense(3, 2, 2);
    const Stored<double> a(A, Layout::row), b(B, Layout::row), c(Dense::Zero(1, 2), Layout::row);
    // x = A[2, ::4], a row vector whose only long stride is 4
    const ConstMatrixView<double> x(a.view().data + 2 * 12, 1, 3, 12, 4);
    multiply<double>(1.0, x, b.read(), 0.0, c.view(), control);
    Dense row(1, 3);
    row << A(2, 0), A(2, 4), A(2, 8);
    CHECK(max_difference(dense(c.view()), plain_product(row, B)) <= 100 * eps<double>());
}

TEST_CASE("multiply rejects shapes that contradict each other and views without a unit stride") {
    const Stored<double> a(random_dense(3, 4, 1), Layout::row), b(random_dense(4, 5, 2), Layout::row);
    const Stored<double> c(random_dense(3, 5, 3), Layout::row);
    RunControl control;
    const auto attempt = [&](ConstMatrixView<double> A, ConstMatrixView<double> B, MatrixView<double> C) {
        multiply<double>(1.0, A, B, 0.0, C, control);
    };
    CHECK_NOTHROW(attempt(a.read(), b.read(), c.view()));
    CHECK_THROWS_AS(attempt(a.read(), b.read().transposed(), c.view()), InvalidArgument);
    CHECK_THROWS_AS(attempt(a.read(), b.read(), c.view().transposed()), InvalidArgument);
    CHECK_THROWS_AS(attempt(a.read(), b.read(), c.view().col_block(0, 4)), InvalidArgument);
    CHECK_THROWS_AS(attempt(a.read().row_block(0, 2), b.read(), c.view()), InvalidArgument);
    const ConstMatrixView<double> every_other(a.view().data, 2, 2, 8, 2);
    CHECK_THROWS_AS(
        attempt(a.read().row_block(0, 2).col_block(0, 2), every_other, c.view().row_block(0, 2).col_block(0, 2)),
        InvalidArgument);
    CHECK_NOTHROW(
        attempt(every_other, b.read().row_block(0, 2), c.view().row_block(0, 2)));  // a skinny left side is copied
}

namespace {

// What a recording dgemm saw: the first entry and the width of each panel of a column-major C.
struct Panel {
    const double *B, *C;
    int width;
};
std::vector<Panel> recorded;

void recording_dgemm(char*, char*, int*, int* n, int*, double*, double*, int*, double* b, int*, double*, double* c,
                     int*) {
    recorded.push_back({b, c, *n});
}

}  // namespace

TEST_CASE("a long product is cut into panels that cover the result once") {
    LapackTable table = eigen_lapack();
    table.dgemm = recording_dgemm;
    const TableScope scope(table);
    recorded.clear();
    constexpr Index n = 2000;  // 2n³ = 1.6e10 flops, above the 1e10 between checkpoints
    const Matrix<double> A(n, n), B(n, n);
    Matrix<double> C(n, n);
    RunControl control;
    multiply<double>(1.0, A.view(), B.view(), 0.0, C.view(), control);
    CHECK(recorded.size() == 2);
    Index column = 0;  // row-major C = A B is column-major Cᵀ = Bᵀ Aᵀ, so panels run over the rows of A and C
    for (const Panel& panel : recorded) {
        CHECK(panel.C == C.data() + column * n);
        CHECK(panel.B == A.data() + column * n);
        column += panel.width;
    }
    CHECK(column == n);
}

namespace {

template <class T>
StoredMatrix stored_matrix(const Stored<T>& W) {
    const auto view = W.view();
    return {view.data, scalar_of<T>(), view.rows, view.cols, view.row_stride, view.col_stride};
}

// C = A W + beta C with W stored in precision S and arithmetic in T.
template <class T, class S>
void check_stored(Index m, Index rows, Index cols, Layout layout, double beta) {
    CAPTURE(rows);
    CAPTURE(cols);
    CAPTURE(static_cast<int>(layout));
    CAPTURE(beta);
    const Dense A = random_dense(m, rows, 1), W = random_dense(rows, cols, 2), C = random_dense(m, cols, 3);
    const Stored<T> a(A, Layout::row), c(beta == 0.0 ? filled(m, cols, kNaN) : C, Layout::row_padded);
    const Stored<S> w(W, layout);
    RunControl control;
    multiply_stored<T>(a.read(), stored_matrix(w), static_cast<T>(beta), c.view(), control);
    Dense expected = A * W;  // Eigen's own product, in double
    if (beta != 0.0) expected += beta * C;
    // The errors of a random sum of n terms of size 1 grow like √n·√n eps at most in practice: 10 n eps is generous
    // and, for T = double, a factor 1e8 below what float32 arithmetic would give.
    CHECK(max_difference(dense(c.view()), expected) <= 10 * static_cast<double>(rows + 1) * eps<T>());
    CHECK(c.count_nan() == c.padding());
}

}  // namespace

TEST_CASE("multiply_stored works in its own precision whatever the weights are stored in") {
    for (const Layout layout : kLayouts) {
        for (const double beta : {0.0, 1.0, 0.5}) {
            check_stored<double, float>(3, 7, 5, layout, beta);
            check_stored<float, double>(3, 7, 5, layout, beta);
            check_stored<double, double>(3, 7, 5, layout, beta);
            check_stored<float, float>(3, 7, 5, layout, beta);
            check_stored<double, float>(1, 1, 1, layout, beta);
            check_stored<double, float>(2, 0, 4, layout, beta);
            check_stored<double, float>(2, 4, 0, layout, beta);
        }
    }
}

TEST_CASE("multiply_stored cuts large weights into panels") {
    constexpr Index rows = 2300, cols = 1000;
    static_assert(rows * cols > 2 * kPanelEntries);
    for (const Layout layout : kLayouts) {
        check_stored<double, float>(2, rows, cols, layout, 0.5);
        check_stored<double, float>(2, cols, rows, layout, 0.0);
    }
    check_stored<float, double>(2, rows, cols, Layout::row, 0.5);
    check_stored<double, float>(1, 2, kPanelEntries + 3, Layout::row, 0.0);  // one line exceeds a panel
    check_stored<double, float>(1, 2, kPanelEntries + 3, Layout::col_padded, 0.5);
}

TEST_CASE("multiply_stored rejects shapes that contradict each other, in either precision") {
    const Stored<double> a(random_dense(2, 4, 1), Layout::row), c(random_dense(2, 3, 2), Layout::row);
    RunControl control;
    const auto attempt = [&](const StoredMatrix& W) { multiply_stored<double>(a.read(), W, 0.0, c.view(), control); };
    const auto attempt_all = [&](auto zero) {
        using S = decltype(zero);
        for (const Layout layout : kLayouts) {
            CHECK_NOTHROW(attempt(stored_matrix(Stored<S>(random_dense(4, 3, 3), layout))));
            CHECK_THROWS_AS(attempt(stored_matrix(Stored<S>(random_dense(3, 3, 3), layout))), InvalidArgument);
            CHECK_THROWS_AS(attempt(stored_matrix(Stored<S>(random_dense(5, 3, 3), layout))), InvalidArgument);
            CHECK_THROWS_AS(attempt(stored_matrix(Stored<S>(random_dense(4, 2, 3), layout))), InvalidArgument);
            CHECK_THROWS_AS(attempt(stored_matrix(Stored<S>(random_dense(4, 4, 3), layout))), InvalidArgument);
        }
    };
    attempt_all(float());
    attempt_all(double());
}

TEST_CASE("StoredMatrix converts every layout, transposed or not") {
    const Dense W = random_dense(37, 29, 1);
    for (const Layout layout : kLayouts) {
        const Stored<float> w(W, layout);
        const Matrix<double> copy = stored_matrix(w).converted<double>();
        const Matrix<float> mirrored = stored_matrix(w).transposed().converted<float>();
        CHECK(dense(copy.view()) == W);
        CHECK(dense(mirrored.view()) == W.transpose());
    }
}

namespace {

template <class T>
double norm_of(const Dense& A, Layout layout) {
    const Stored<T> stored(A, layout);
    RunControl control;
    return spectral_norm<T>(stored.read(), control);
}

double jacobi_norm(const Dense& A) { return Eigen::JacobiSVD<Dense>(A).singularValues()(0); }

}  // namespace

TEST_CASE_TEMPLATE("spectral_norm is the largest singular value", T, float, double) {
    const Shape shapes[] = {{1, 1, 0}, {1, 9, 0}, {9, 1, 0}, {5, 8, 0}, {8, 5, 0}, {30, 30, 0}, {70, 20, 0}};
    for (const Shape& shape : shapes) {
        for (const Layout layout : kLayouts) {
            const Dense A = random_dense(shape.p, shape.q, 7);
            const double expected = jacobi_norm(A);
            // λ_max of the Gram matrix has relative error O(n eps(double)), whatever T: σ_max has half of it.
            CHECK(std::abs(norm_of<T>(A, layout) - expected) <= 100 * eps<double>() * expected);
        }
    }
}

TEST_CASE("spectral_norm of zero, empty, tiny and huge matrices") {
    CHECK(norm_of<double>(Dense::Zero(4, 3), Layout::row) == 0.0);
    CHECK(norm_of<float>(Dense::Zero(1, 1), Layout::row) == 0.0);
    CHECK(norm_of<double>(Dense::Zero(0, 3), Layout::row) == 0.0);
    CHECK(norm_of<double>(Dense::Zero(3, 0), Layout::col) == 0.0);
    const Dense A = random_dense(6, 9, 8);
    const double expected = jacobi_norm(A);
    for (const double scale : {1e-300, 1e-200, 1e-30, 1e30, 1e200, 1e300}) {
        CAPTURE(scale);
        const double norm = norm_of<double>(scale * A, Layout::row_padded);
        CHECK(std::abs(norm / scale - expected) <= 100 * eps<double>() * expected);
    }
    constexpr double smallest = std::numeric_limits<double>::denorm_min();
    CHECK(norm_of<double>(Dense::Constant(1, 1, smallest), Layout::row) == smallest);
}

TEST_CASE("spectral_norm of a matrix with NaN or infinite entries is not finite") {
    for (const double bad : {kNaN, std::numeric_limits<double>::infinity()}) {
        for (Index entry = 0; entry < 12; ++entry) {
            Dense A = random_dense(3, 4, 9);
            A(entry / 4, entry % 4) = bad;
            CHECK_FALSE(std::isfinite(norm_of<double>(A, Layout::row)));
            CHECK_FALSE(std::isfinite(norm_of<float>(A, Layout::col)));
        }
    }
    CHECK_FALSE(std::isfinite(norm_of<double>(filled(2, 2, kNaN), Layout::row)));
}

namespace {
void failing_dsyevd(char*, char*, int*, double*, int*, double*, double* work, int*, int* iwork, int*, int* info) {
    work[0] = 1.0;
    iwork[0] = 1;
    *info = 3;
}
}  // namespace

TEST_CASE("spectral_norm reports an eigensolver that fails") {
    LapackTable table = eigen_lapack();
    table.dsyevd = failing_dsyevd;
    const TableScope scope(table);
    CHECK_THROWS_AS(norm_of<double>(random_dense(3, 3, 1), Layout::row), NumericalFailure);
}

// What a program that is linked with a BLAS has.
extern "C" {
void sgemm_(char*, char*, int*, int*, int*, float*, float*, int*, float*, int*, float*, float*, int*) {}
void dgemm_(char*, char*, int*, int*, int*, double*, double*, int*, double*, int*, double*, double*, int*) {}
void sgesdd_(char*, int*, int*, float*, int*, float*, float*, int*, float*, int*, float*, int*, int*, int*) {}
void dgesdd_(char*, int*, int*, double*, int*, double*, double*, int*, double*, int*, double*, int*, int*, int*) {}
void dsyevd_(char*, char*, int*, double*, int*, double*, double*, int*, int*, int*, int*) {}
}

TEST_CASE("the table of a linked BLAS holds its Fortran names") {
    const LapackTable table = fortran_lapack();
    CHECK((table.sgemm == &sgemm_));
    CHECK((table.dgemm == &dgemm_));
    CHECK((table.sgesdd == &sgesdd_));
    CHECK((table.dgesdd == &dgesdd_));
    CHECK((table.dsyevd == &dsyevd_));
}

TEST_CASE("an incomplete LAPACK table is rejected and leaves the installed one") {
    LapackTable table = eigen_lapack();
    table.sgesdd = nullptr;
    CHECK_THROWS_AS(install_lapack(table), InvalidArgument);
    CHECK((lapack().sgesdd != nullptr));
}
