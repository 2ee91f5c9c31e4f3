#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/simd/tables.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

using Values = std::vector<double>;

Values grid(double low, double high, Index count) {
    Values out(static_cast<std::size_t>(count));
    for (Index i = 0; i < count; ++i)
        out[static_cast<std::size_t>(i)] = low + (high - low) * static_cast<double>(i) / static_cast<double>(count - 1);
    return out;
}

// max |f(x)/exact(x) − 1| in units of eps.
template <class Exact>
double ulps(void (*f)(Index, const double*, double*), const Values& x, const Exact& exact) {
    Values y(x.size(), kNaN);
    f(static_cast<Index>(x.size()), x.data(), y.data());
    double worst = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const long double error = std::fabs(static_cast<long double>(y[i]) / exact(static_cast<long double>(x[i])) - 1);
        if (!(error <= worst)) worst = static_cast<double>(error);
    }
    return worst / eps<double>();
}

long double erfcx(long double x) {
    if (x < 100) return std::exp(x * x) * std::erfc(x);
    const long double w = 1 / (2 * x * x);
    return (1 - w * (1 - 3 * w * (1 - 5 * w))) / (x * 1.772453850905516027298167483341145L);
}

// A row of n edges with its own memory.
struct Row {
    explicit Row(Index n)
        : padded((n + simd::kEdgeLanes - 1) / simd::kEdgeLanes * simd::kEdgeLanes),
          words(static_cast<std::size_t>((n + 31) / 32)),
          a(1, padded),
          b2(1, padded),
          h(1, padded),
          S(Matrix<double>::zeros(1, padded)) {
        const Dense random = random_dense(2, padded, static_cast<unsigned>(n));
        for (std::size_t c = 0; c < words.size(); ++c) words[c] = static_cast<std::uint32_t>(0x9E3779B9u * (c + 1));
        for (Index i = 0; i < padded; ++i) {
            a.data()[i] = i < n ? 0.3 * random(0, i) : 0.0;
            b2.data()[i] = i < n ? std::exp(random(1, i)) : 1.0;
        }
        edges = {n, words.data(), 1, n % 3 == 0 ? -1 : 1, a.data()};
    }

    Index padded;
    std::vector<std::uint32_t> words;
    Matrix<double> a, b2, h, S, scratch{1, simd::kEdgeScratch};
    simd::EdgeRow edges{};
};

// Up and down a row with the kernels of one set: ω, V, the change, then messages and sums.
Values swept(const simd::EdgeKernels& kernels, Index n, double plus, double minus) {
    Row row(n);
    simd::EdgeOutput output{0.0, 0.0, plus, minus, 0.0};
    kernels.up(row.edges, row.b2.data(), row.h.data(), &output.omega, &output.V);
    const double change =
        kernels.down(1, &row.edges, &output, row.h.data(), row.padded, 0.25, 0.0, row.S.data(), row.scratch.data());
    Values out{output.omega, output.V, change};
    out.insert(out.end(), row.a.data(), row.a.data() + n);
    out.insert(out.end(), row.S.data(), row.S.data() + n);
    for (Index i = n; i < row.padded; ++i) CHECK(row.a.data()[i] == 0.0);
    output.V = 0.5;
    kernels.gaussian_up(row.edges, row.S.data(), 0.1, 0.5, row.h.data(), output);
    const double gaussian_change = kernels.gaussian_down(row.edges, output, row.h.data(), 0.25, row.S.data());
    out.push_back(output.omega);
    out.push_back(output.span);
    out.push_back(gaussian_change);
    out.insert(out.end(), row.a.data(), row.a.data() + n);
    out.insert(out.end(), row.S.data(), row.S.data() + n);
    return out;
}

// ½ log Q(z₊)/Q(z₋), z± = (ω − y ± 1)/√(V − 1 + y²).
long double field(long double y, const simd::EdgeOutput& output) {
    const long double spread = std::sqrt(static_cast<long double>(output.V) - 1 + y * y);
    const auto part = [&](long double z) {
        return (output.plus * std::erfc(-z * std::sqrt(0.5L)) + output.minus * std::erfc(z * std::sqrt(0.5L))) / 2;
    };
    return std::log(part((output.omega - y + 1) / spread) / part((output.omega - y - 1) / spread)) / 2;
}

// Messages to binary weights, whose cavities span ±1, against their formula.
void check_binary(const simd::EdgeKernels& kernels, Index n, const simd::EdgeOutput& output) {
    Row row(n);
    for (Index i = 0; i < row.padded; ++i) row.h.data()[i] = i < n ? std::cos(static_cast<double>(i)) : 0.0;
    kernels.down(1, &row.edges, &output, row.h.data(), row.padded, 0.0, 0.0, row.S.data(), row.scratch.data());
    long double largest = 1.0, worst = 0.0;
    for (Index i = 0; i < n; ++i) {
        const bool bit = (row.words[static_cast<std::size_t>(i / 32)] >> (i % 32)) & 1;
        const long double xi = bit == (row.edges.flip > 0) ? 1.0L : -1.0L;
        const long double exact = xi * field(xi * row.h.data()[i], output);
        largest = std::max(largest, std::fabs(exact));
        worst = std::max(worst, std::fabs(row.a.data()[i] - exact));
        CHECK(row.S.data()[i] == row.a.data()[i]);
    }
    // The interpolant is cut at 1e-13 of its largest coefficient, or of 1; exponents z²/2 < 110 round to 110 eps.
    CHECK(worst <= 5e-13L * largest);
}

// φ(z)(p₊ − p₋)/Q(z).
long double slope(long double z, long double plus, long double minus) {
    constexpr long double inverse_root_2 = 0.70710678118654752440L, root_2_over_pi = 0.79788456080286535588L;
    if (minus == 0.0L && z < 0.0L) return root_2_over_pi / erfcx(-z * inverse_root_2);
    const long double rise = std::erfc(-z * inverse_root_2) / 2, fall = std::erfc(z * inverse_root_2) / 2;
    return root_2_over_pi / 2 * std::exp(-z * z / 2) * (plus - minus) / (plus * rise + minus * fall);
}

// Messages to continuous weights, whose cavities span ±`span`, against their formula.
void check_gaussian(const simd::EdgeKernels& kernels, Index n, const simd::EdgeOutput& output) {
    Row row(n);
    for (Index i = 0; i < row.padded; ++i)
        row.h.data()[i] = i < n ? output.span * std::cos(static_cast<double>(i)) : 0.0;
    kernels.gaussian_down(row.edges, output, row.h.data(), 0.0, row.S.data());
    long double largest = 0.0, worst = 0.0;
    for (Index i = 0; i < n; ++i) {
        const long double root = std::sqrt(static_cast<long double>(output.V));
        const long double z = (static_cast<long double>(output.omega) - row.h.data()[i]) / root;
        const long double exact = slope(z, output.plus, output.minus) / root;
        largest = std::max(largest, std::fabs(exact));
        worst = std::max(worst, std::fabs(row.a.data()[i] - exact));
    }
    // The interpolant is cut at 1e-13 of its largest coefficient; e^{−z²/2} multiplies the rounding of z²/2 < 500.
    CHECK(worst <= 5e-13L * largest);
}

}  // namespace

TEST_CASE("messages to continuous weights are their formula, interpolated or not") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(std::string(table->name));
        for (const Index n : {63, 64, 203}) {
            for (const double omega : {-3.0, -0.4, 0.0, 0.7, 3.0}) {
                for (const double V : {0.01, 0.5, 4.0}) {
                    for (const double span : {0.05, 0.3, 2.0}) {
                        CAPTURE(n);
                        CAPTURE(omega);
                        CAPTURE(V);
                        CAPTURE(span);
                        check_gaussian(table->edges, n, {omega, V, 1.0, 0.0, span});
                        check_gaussian(table->edges, n, {omega, V, 0.8, 0.2, span});
                    }
                }
            }
        }
    }
}

TEST_CASE("messages to binary weights are their formula, interpolated or not") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(std::string(table->name));
        for (const Index n : {63, 64, 203}) {
            for (const double omega : {-9.0, -2.0, 0.0, 0.7, 4.0}) {
                for (const double V : {1.5, 5.0, 12.0, 150.0}) {
                    CAPTURE(n);
                    CAPTURE(omega);
                    CAPTURE(V);
                    check_binary(table->edges, n, {omega, V, 1.0, 0.0, 0.0});
                    check_binary(table->edges, n, {omega, V, 0.8, 0.2, 0.0});
                }
            }
        }
    }
}

TEST_CASE("elementary functions keep their digits in every set") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(std::string(table->name));
        const simd::FunctionKernels& f = table->functions;
        // Rounding of the last step, of the polynomial and, without fused multiply-adds, of the argument's reduction.
        CHECK(ulps(f.exp, grid(-708.0, 709.0, 40000), [](long double x) { return std::exp(x); }) < 2.5);
        CHECK(ulps(f.exp, grid(-1.0, 1.0, 4000), [](long double x) { return std::exp(x); }) < 2.5);
        CHECK(ulps(f.erfcx, grid(0.0, 30.0, 40000), erfcx) < 6.0);
        CHECK(ulps(f.erfcx, grid(30.0, 1e6, 4000), erfcx) < 6.0);
        CHECK(ulps(f.log, grid(1e-3, 0.999, 4000), [](long double x) { return std::log(x); }) < 2.5);
        CHECK(ulps(f.log, grid(1.001, 1e9, 4000), [](long double x) { return std::log(x); }) < 2.5);
        // e^{−x²/2} multiplies the rounding of its argument, eps·x²/2 up to 700 eps.
        CHECK(ulps(f.ndtr, grid(-37.0, 37.0, 40000),
                   [](long double x) { return std::erfc(-x * 0.7071067811865475244L) / 2; }) < 1000.0);
        CHECK(ulps(f.log_ndtr, grid(-1e6, -1e-3, 40000), [](long double x) {
                  return x < -100 ? -x * x / 2 + std::log(erfcx(-x * 0.7071067811865475244L) / 2)
                                  : std::log(std::erfc(-x * 0.7071067811865475244L) / 2);
              }) < 4.0);
        double ends[8] = {-1e308, -1e4, 1e4, 1e308, 0.0, 0.0, 0.0, 0.0};
        f.exp(8, ends, ends);
        CHECK((ends[0] > 0.0 && ends[0] < 1e-300 && ends[1] == ends[0]));
        CHECK((ends[3] > 1e300 && std::isfinite(ends[3]) && ends[2] == ends[3]));
        CHECK(ends[4] == 1.0);
    }
}

TEST_CASE("messages on edges are the same in every set") {
    const auto tables = simd::supported_tables();
    for (const Index n : {1, 7, 8, 31, 33, 64, 111, 203}) {
        CAPTURE(n);
        for (const double minus : {0.0, 0.3, 1.0}) {
            const Values first = swept(tables.front()->edges, n, 1.0 - minus, minus);
            for (const double value : first) CHECK(std::isfinite(value));
            for (const simd::Table* table : tables) {
                CAPTURE(std::string(table->name));
                const Values other = swept(table->edges, n, 1.0 - minus, minus);
                REQUIRE(other.size() == first.size());
                // Sums of up to 203 terms of size 1 in another order; the interpolant is cut at 1e-13.
                for (std::size_t i = 0; i < first.size(); ++i)
                    CHECK(std::fabs(other[i] - first[i]) <= 1e-12 * (1.0 + std::fabs(first[i])));
            }
        }
    }
}

TEST_CASE("output nodes are the same in every set, lane by lane") {
    const auto tables = simd::supported_tables();
    for (const Index units : {2, 3, 4, 9, 21}) {
        CAPTURE(units);
        const auto size = static_cast<std::size_t>(units * simd::kNodeLanes);
        const Dense random = random_dense(1, units * simd::kNodeLanes, static_cast<unsigned>(units));
        Values z(size), rise(size), fall(size), target(simd::kNodeLanes);
        for (std::size_t i = 0; i < size; ++i) {
            z[i] = 3.0 * random(0, static_cast<Index>(i));
            rise[i] = 0.5 * std::erfc(-z[i] * std::sqrt(0.5));
            fall[i] = 0.5 * std::erfc(z[i] * std::sqrt(0.5));
        }
        for (std::size_t lane = 0; lane < target.size(); ++lane) target[lane] = lane % 3 == 0 ? -1.0 : 1.0;
        std::vector<Values> found;
        for (const simd::Table* table : tables) {
            Values scratch(static_cast<std::size_t>(simd::node_scratch(units)), kNaN), all;
            for (const bool parity : {false, true}) {
                if (!parity && units % 2 == 0) continue;
                Values plus(size), minus(size), slope(size), log_z(simd::kNodeLanes);
                if (parity)
                    table->node.parity(units, rise.data(), fall.data(), target.data(), plus.data(), minus.data(),
                                       log_z.data(), scratch.data());
                else
                    table->node.majority(units, rise.data(), fall.data(), plus.data(), minus.data(), log_z.data(),
                                         scratch.data());
                table->node.slope(static_cast<Index>(size), false, z.data(), plus.data(), minus.data(), slope.data());
                for (const Values* part : {&plus, &minus, &slope, &log_z})
                    all.insert(all.end(), part->begin(), part->end());
            }
            found.push_back(all);
        }
        for (const Values& other : found)
            for (std::size_t i = 0; i < other.size(); ++i)
                CHECK(std::fabs(other[i] - found[0][i]) <= 1e-13 * (1.0 + std::fabs(found[0][i])));
    }
}
