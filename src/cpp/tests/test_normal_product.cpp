#include <doctest/doctest.h>

#include "core/normal_product.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

// Independent entries of size 1: an image has entries of size √n, and both sums together m·n terms; (m + n + 4)·eps
// times their number bounds the rounding generously.
template <class T, class S>
void check_normal(Index b, Index m, Index n, Layout layout, double scale) {
    CAPTURE(b);
    CAPTURE(m);
    CAPTURE(n);
    const Dense A = random_dense(m, n, 1), X = random_dense(b, n, 2);
    const Stored<S> a(A, layout);
    const Stored<T> x(X, Layout::row_padded), y(filled(b, n, kNaN), Layout::row_padded);
    RunControl control;
    normal_product<T>(static_cast<T>(scale), as_stored(a), x.read(), y.view(), control);
    const Dense stored = dense(a.read()), start = dense(x.read());
    const Dense expected = scale * scale * (start * stored.transpose()) * stored;
    const double size = static_cast<double>(m) * static_cast<double>(n) * scale * scale;
    CHECK(max_difference(dense(y.view()), expected) <= static_cast<double>(m + n + 4) * eps<T>() * size);
    CHECK(y.count_nan() == y.padding());
}

}  // namespace

TEST_CASE("the normal product in either precision of matrix and vectors") {
    for (const Layout layout : kLayouts) {
        for (const double scale : {1.0, 0.25}) {
            check_normal<float, float>(4, 9, 7, layout, scale);
            check_normal<double, double>(3, 7, 9, layout, scale);
            check_normal<double, float>(1, 9, 7, layout, scale);
            check_normal<float, double>(2, 5, 1, layout, scale);
            check_normal<double, double>(2, 1, 5, layout, scale);
        }
    }
}

TEST_CASE("the normal product cuts long matrices into panels") {
    static_assert(2300 * 300 > (Index{1} << 19));
    for (const Layout layout : {Layout::row, Layout::col_padded}) {
        check_normal<double, double>(2, 2300, 300, layout, 0.5);
        check_normal<double, float>(2, 2300, 300, layout, 0.5);
    }
}

TEST_CASE("the normal product refuses contradicting shapes") {
    const Stored<double> a(random_dense(4, 3, 1), Layout::row), x(random_dense(2, 3, 2), Layout::row);
    const Stored<double> narrow(random_dense(2, 2, 3), Layout::row), tall(random_dense(3, 3, 4), Layout::row);
    RunControl control;
    CHECK_THROWS_AS(normal_product<double>(1.0, as_stored(a), narrow.read(), x.view(), control), InvalidArgument);
    CHECK_THROWS_AS(normal_product<double>(1.0, as_stored(a), x.read(), narrow.view(), control), InvalidArgument);
    CHECK_THROWS_AS(normal_product<double>(1.0, as_stored(a), x.read(), tall.view(), control), InvalidArgument);
}
