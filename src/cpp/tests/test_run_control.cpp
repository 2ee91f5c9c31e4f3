#include <doctest/doctest.h>

#include <functional>
#include <thread>

#include "core/balance.hpp"
#include "core/block_vectors.hpp"
#include "core/coupling.hpp"
#include "core/gains.hpp"
#include "core/hessian.hpp"
#include "core/parallel.hpp"
#include "core/svd.hpp"
#include "core/symmetric_eigenvalues.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kInterval(50);

struct Stop {
    int tag;
};

// A control whose next checkpoint runs the callback.
RunControl due_control(RunControl::Callback callback) {
    RunControl control(std::move(callback));
    std::this_thread::sleep_for(kInterval + std::chrono::milliseconds(5));
    return control;
}

void check_stops(const char* kernel, const std::function<void(RunControl&)>& run) {
    CAPTURE(kernel);
    RunControl control = due_control([](double) { throw Stop{42}; });
    int tag = 0;
    try {
        run(control);
    } catch (const Stop& stop) {
        tag = stop.tag;
    }
    CHECK(tag == 42);
}

Layer layer_of(const Stored<double>& W) {
    const auto view = W.view();
    return {{view.data, Scalar::f64, view.rows, view.cols, view.row_stride, view.col_stride}, nullptr, false};
}

}  // namespace

TEST_CASE("checkpoint calls back at most every 50 ms, and does call back") {
    int calls = 0;
    const auto start = Clock::now();
    RunControl control([&](double fraction) {
        ++calls;
        CHECK(fraction == 0.25);
    });
    while (Clock::now() - start < std::chrono::milliseconds(180)) control.checkpoint(0.25);
    control.checkpoint(0.25);
    const auto elapsed = Clock::now() - start;
    CHECK(calls >= 1);
    CHECK(calls * kInterval <= elapsed);
}

TEST_CASE("checkpoint hands on an unknown fraction as a negative one, and is nothing without a callback") {
    double seen = 1.0;
    due_control([&](double fraction) { seen = fraction; }).checkpoint();
    CHECK(seen < 0.0);
    RunControl silent;
    CHECK_NOTHROW(silent.checkpoint());
}

TEST_CASE("an exception of the callback leaves every kernel unchanged") {
    const Stored<double> a(random_dense(4, 4, 1), Layout::row), b(random_dense(4, 4, 2), Layout::row);
    const Stored<float> f(random_dense(4, 4, 3), Layout::row);
    const Stored<double> c(Dense::Zero(4, 4), Layout::row);
    const Chain chain({layer_of(a), layer_of(b)});
    check_stops("multiply", [&](RunControl& r) { multiply<double>(1.0, a.read(), b.read(), 0.0, c.view(), r); });
    const StoredMatrix single{f.view().data, Scalar::f32, 4, 4, 4, 1};
    check_stops("multiply_stored", [&](RunControl& r) { multiply_stored<double>(a.read(), single, 0.0, c.view(), r); });
    check_stops("spectral_norm", [&](RunControl& r) { spectral_norm<double>(a.read(), r); });
    check_stops("gram", [&](RunControl& r) { gram<double>(a.read(), b.read(), c.view(), r); });
    check_stops("update", [&](RunControl& r) { update<double>(c.view(), a.read(), b.read(), r); });
    check_stops("combine", [&](RunControl& r) { combine<double>(c.view(), a.read(), r); });
    check_stops("overlaps", [&](RunControl& r) { overlaps<double>(a.read(), b.read(), c.view(), r); });
    check_stops("thin_svd", [&](RunControl& r) { thin_svd<double>(Matrix<double>::zeros(3, 2), r); });
    check_stops("symmetric_eigenvalues", [&](RunControl& r) { symmetric_eigenvalues(Matrix<double>::zeros(3, 3), r); });
    check_stops("layer_balance", [&](RunControl& r) { layer_balance(chain, r); });
    check_stops("partial_norms", [&](RunControl& r) { partial_norms(chain, r); });
    check_stops("gain_profile", [&](RunControl& r) { gain_profile(chain, {1.0, 0.0, 0.0, 0.0}, r); });
    check_stops("near sweep", [&](RunControl& r) { ChainHessian<double>(chain, NarrowEnd::output, {}, r); });
}

TEST_CASE("an interrupted Hessian kernel gives the same products afterwards") {
    const Stored<double> a(random_dense(3, 4, 1), Layout::row), b(random_dense(2, 3, 2), Layout::row);
    const Chain chain({layer_of(a), layer_of(b)});
    const Stored<double> G(random_dense(2, 4, 3), Layout::row), D(random_dense(2, 18, 4), Layout::row);
    RunControl control;
    ChainHessian<double> kernel(chain, NarrowEnd::output, {}, control);
    check_stops("set_loss_gradient", [&](RunControl& r) { kernel.set_loss_gradient(G.read(), r); });
    kernel.set_loss_gradient(G.read(), control);
    const auto product = [&](RunControl& r) {
        const Stored<double> out(filled(2, 18, kNaN), Layout::row);
        kernel.product(D.read(), out.view(), Curvature::hessian, [](MatrixView<double>, Index) {}, r);
        return dense(out.view());
    };
    const Dense before = product(control);
    check_stops("product", [&](RunControl& r) { product(r); });
    std::vector<double> gradient(18);
    check_stops("gradient", [&](RunControl& r) { kernel.gradient(gradient.data(), r); });
    CHECK(product(control) == before);
}

TEST_CASE("an exception of the loss leaves the product unchanged") {
    const Stored<double> a(random_dense(3, 4, 1), Layout::row), G(random_dense(3, 4, 3), Layout::row);
    RunControl control;
    ChainHessian<double> kernel(Chain({layer_of(a)}), NarrowEnd::output, {}, control);
    kernel.set_loss_gradient(G.read(), control);
    const Stored<double> out(filled(1, 12, kNaN), Layout::row);
    const LossHessian<double> loss = [](MatrixView<double>, Index) { throw Stop{7}; };
    CHECK_THROWS_AS(kernel.product(Stored<double>(random_dense(1, 12, 2), Layout::row).read(), out.view(),
                                   Curvature::hessian, loss, control),
                    Stop);
}

TEST_CASE("parallel_ranges covers the range once, in pieces no shorter than the grain") {
    for (const Index n : {0, 1, 7, 64, 1000}) {
        for (const Index grain : {0, 1, 10, 2000}) {
            CAPTURE(n);
            CAPTURE(grain);
            std::vector<int> visits(static_cast<std::size_t>(n), 0);  // disjoint ranges: no entry is shared
            std::vector<char> short_piece(static_cast<std::size_t>(n) + 1, 0);
            parallel_ranges(n, grain, [&](Index first, Index last) {
                for (Index i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
                if (last - first < std::min(n, grain)) short_piece[static_cast<std::size_t>(first)] = 1;
            });
            for (const int count : visits) CHECK(count == 1);
            for (const char found : short_piece) CHECK(found == 0);
        }
    }
}

TEST_CASE("parallel_ranges rethrows what a body throws") {
    const auto failing_at = [](Index bad) {
        parallel_ranges(1000, 1, [&](Index first, Index last) {
            if (first <= bad && bad < last) throw Stop{3};
        });
    };
    CHECK_THROWS_AS(failing_at(0), Stop);
    CHECK_THROWS_AS(failing_at(999), Stop);
    CHECK_NOTHROW(failing_at(1000));
}
