#include <doctest/doctest.h>

#include <algorithm>

#include "core/block_vectors.hpp"
#include "core/parallel.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

constexpr Index kLengths[] = {0, 1, 5, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk + 17};

struct Counts {
    Index c, b;
};
constexpr Counts kCounts[] = {{1, 1}, {3, 2}, {2, 5}, {0, 2}, {2, 0}};

double largest_row_norm(const Dense& V) { return V.rows() == 0 ? 0.0 : V.rowwise().norm().maxCoeff(); }

template <class T>
void check_gram(const Counts& counts, Index N) {
    CAPTURE(counts.c);
    CAPTURE(counts.b);
    CAPTURE(N);
    const Dense V = random_dense(counts.c, N, 1), W = random_dense(counts.b, N, 2);
    const Stored<T> v(V, Layout::row_padded), w(W, Layout::row);
    const Stored<double> out(filled(counts.c, counts.b, kNaN), Layout::row_padded);
    RunControl control;
    gram<T>(v.read(), w.read(), out.view(), control);
    // Rounding of a chunk's sum behaves like a random walk of at most √kChunk = 64 steps of eps‖v‖‖w‖/√kChunk.
    const double tolerance = 20 * eps<T>() * largest_row_norm(V) * largest_row_norm(W);
    CHECK(max_difference(dense(out.view()), plain_product(V, W.transpose())) <= tolerance);
    CHECK(out.count_nan() == out.padding());
}

template <class T>
void check_update(const Counts& counts, Index N) {
    CAPTURE(counts.c);
    CAPTURE(counts.b);
    CAPTURE(N);
    const Dense V = random_dense(counts.c, N, 1), W = random_dense(counts.b, N, 2),
                C = random_dense(counts.c, counts.b, 3);
    const Stored<T> v(V, Layout::row), w(W, Layout::row_padded);
    const Stored<double> c(C, Layout::col);
    RunControl control;
    update<T>(w.view(), v.read(), c.read(), control);
    const Dense expected = W - plain_product(C.transpose(), V);
    // c + 1 terms of size max|C| max|V| and one of size max|W|
    const double moduli = static_cast<double>(counts.c) * max_abs(C) * max_abs(V) + max_abs(W);
    CHECK(max_difference(dense(w.view()), expected) <= static_cast<double>(counts.c + 2) * eps<T>() * moduli);
    CHECK(w.count_nan() == w.padding());
}

template <class T>
void check_combine(Index c, Index r, Index N) {
    CAPTURE(c);
    CAPTURE(r);
    CAPTURE(N);
    const Dense V = random_dense(c, N, 1), C = random_dense(c, r, 2);
    const Stored<T> v(V, Layout::row_padded);
    const Stored<double> coefficients(C, Layout::row_padded);
    RunControl control;
    combine<T>(v.view(), coefficients.read(), control);
    Dense expected = V;  // rows r and beyond keep their values
    expected.topRows(r) = plain_product(C.transpose(), V);
    const Dense result = dense(v.view());
    const double moduli = static_cast<double>(c) * max_abs(C) * max_abs(V);
    CHECK(max_difference(result, expected) <= static_cast<double>(c + 2) * eps<T>() * moduli);
    CHECK(result.bottomRows(c - r) == V.bottomRows(c - r));
    CHECK(v.count_nan() == v.padding());
}

}  // namespace

TEST_CASE_TEMPLATE("gram is V Wᵀ across chunk borders", T, float, double) {
    for (const Counts& counts : kCounts)
        for (const Index N : kLengths) check_gram<T>(counts, N);
}

TEST_CASE_TEMPLATE("gram of more short vectors than share a copy", T, float, double) {
    for (const Index N : {3, 7, 17}) check_gram<T>({200, 190}, N);
}

TEST_CASE("gram of a float32 basis gathers its chunks in float64") {
    // One entry 2¹³ in the first chunk, one entry 1 in each other: the sum of squares 2²⁶ + 4 has 27 bits.
    Dense V = Dense::Zero(1, 5 * kChunk);
    V(0, 7) = 8192.0;
    for (Index chunk = 1; chunk < 5; ++chunk) V(0, chunk * kChunk + chunk) = 1.0;
    const Stored<float> v(V, Layout::row);
    double out = 0.0;
    RunControl control;
    gram<float>(v.read(), v.read(), {&out, 1, 1}, control);
    CHECK(out == 67108868.0);
}

TEST_CASE_TEMPLATE("update subtracts Cᵀ V", T, float, double) {
    for (const Counts& counts : kCounts)
        for (const Index N : kLengths) check_update<T>(counts, N);
}

TEST_CASE_TEMPLATE("combine overwrites the first rows by Cᵀ V", T, float, double) {
    for (const Index N : kLengths) {
        check_combine<T>(1, 1, N);
        check_combine<T>(4, 4, N);
        check_combine<T>(5, 2, N);
        check_combine<T>(3, 0, N);
    }
}

TEST_CASE_TEMPLATE("long vectors are shared by threads", T, float, double) {
    constexpr Index N = 8 * kEntriesPerThread + 5;
    const ThreadScope scope(2);
    check_gram<T>({3, 2}, N);
    check_update<T>({3, 2}, N);
    check_combine<T>(5, 2, N);
}

TEST_CASE("block-vector operations reject shapes that contradict each other") {
    const Stored<double> v(random_dense(3, 8, 1), Layout::row), w(random_dense(2, 8, 2), Layout::row);
    const Stored<double> small(random_dense(3, 2, 3), Layout::row), wide(random_dense(3, 4, 4), Layout::row);
    RunControl control;
    CHECK_THROWS_AS(gram<double>(v.read(), w.read().col_block(0, 7), small.view(), control), InvalidArgument);
    CHECK_THROWS_AS(gram<double>(v.read(), w.read(), small.view().transposed(), control), InvalidArgument);
    CHECK_THROWS_AS(update<double>(w.view(), v.read(), small.read().transposed(), control), InvalidArgument);
    CHECK_THROWS_AS(update<double>(w.view().col_block(0, 7), v.read(), small.read(), control), InvalidArgument);
    CHECK_THROWS_AS(combine<double>(v.view(), wide.read(), control), InvalidArgument);
    CHECK_THROWS_AS(combine<double>(w.view(), small.read(), control), InvalidArgument);
}

namespace {

std::vector<double> normals(Index rows, Index cols, std::uint64_t seed) {
    std::vector<double> out(static_cast<std::size_t>(rows * cols));
    fill_normal<double>({out.data(), rows, cols}, seed);
    return out;
}

double mean_power(const std::vector<double>& x, int power) {
    double sum = 0.0;
    for (const double entry : x) sum += std::pow(entry, power);
    return sum / static_cast<double>(x.size());
}

// Mean of x_i y_{i+lag}
double correlation(const std::vector<double>& x, const std::vector<double>& y, std::size_t lag) {
    double sum = 0.0;
    for (std::size_t i = 0; i + lag < x.size(); ++i) sum += x[i] * y[i + lag];
    return sum / static_cast<double>(x.size() - lag);
}

// Mean of x_i² x_{2i+shift}: not zero where the counters of two entries' uniforms overlap.
double doubling_correlation(const std::vector<double>& x, std::size_t shift) {
    const std::size_t count = (x.size() - shift) / 2;
    double sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) sum += x[i] * x[i] * x[2 * i + shift];
    return sum / static_cast<double>(count);
}

// sup_t |F_n(t) − Φ(t)|
double kolmogorov_distance(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    const auto n = static_cast<double>(x.size());
    double worst = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double cdf = 0.5 * std::erfc(-x[i] / std::sqrt(2.0));
        worst = std::max({worst, cdf - static_cast<double>(i) / n, static_cast<double>(i + 1) / n - cdf});
    }
    return worst;
}

}  // namespace

TEST_CASE("fill_normal: moments, distribution and correlations of independent standard normals") {
    // Each statistic of n samples has standard deviation √(variance / n); five of them bound it (chance below 1e-6).
    const auto x = normals(4, 50000, 20240501), y = normals(4, 50000, 20240502);
    const double root = std::sqrt(static_cast<double>(x.size()));
    CHECK(std::abs(mean_power(x, 1)) <= 5.0 / root);
    CHECK(std::abs(mean_power(x, 2) - 1.0) <= 5.0 * std::sqrt(2.0) / root);
    CHECK(std::abs(mean_power(x, 3)) <= 5.0 * std::sqrt(15.0) / root);
    CHECK(std::abs(mean_power(x, 4) - 3.0) <= 5.0 * std::sqrt(96.0) / root);
    CHECK(kolmogorov_distance(x) <= 2.3 / root);  // P(√n D > 2.3) = 2 exp(−2·2.3²) = 5e-5
    for (const std::size_t lag : {1, 2, 3, 50000}) CHECK(std::abs(correlation(x, x, lag)) <= 5.0 / root);
    for (const std::size_t lag : {0, 1, 2}) CHECK(std::abs(correlation(x, y, lag)) <= 5.0 / root);
    auto tail = x;  // t_i = x_{i+1}, so that t_{2i} = x_{2(i+1)−1}
    tail.erase(tail.begin());
    for (const std::size_t shift : {0, 1, 2}) {
        CHECK(std::abs(doubling_correlation(x, shift + 1)) <= 5.0 * std::sqrt(2.0 * 3.0) / root);
        CHECK(std::abs(doubling_correlation(tail, shift)) <= 5.0 * std::sqrt(2.0 * 3.0) / root);
    }
}

TEST_CASE("fill_normal depends on the seed and the position alone") {
    constexpr Index rows = 2, cols = 70001;  // long enough for four threads to share
    const auto reference = normals(rows, cols, 11);
    for (const int threads : {1, 2, 3, 4}) {
        const ThreadScope scope(threads);
        CHECK(normals(rows, cols, 11) == reference);
    }
    const auto flat = normals(1, rows * cols, 11);  // entry (i, j) is number i·N + j
    CHECK(flat == reference);
}

TEST_CASE("fill_normal: neighbouring seeds share no entry, and float32 is the rounding of float64") {
    auto all = normals(1, 1000, 0);
    for (const std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{2}, std::uint64_t{3}, ~std::uint64_t{0}}) {
        const auto more = normals(1, 1000, seed);
        all.insert(all.end(), more.begin(), more.end());
    }
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());

    const auto wide = normals(3, 40, 5);
    const Stored<float> narrow(filled(3, 40, kNaN), Layout::row_padded);
    fill_normal<float>(narrow.view(), 5);
    for (Index i = 0; i < 3; ++i)
        for (Index j = 0; j < 40; ++j)
            CHECK(narrow.view()(i, j) == static_cast<float>(wide[static_cast<std::size_t>(i * 40 + j)]));
    CHECK(narrow.count_nan() == narrow.padding());
}
