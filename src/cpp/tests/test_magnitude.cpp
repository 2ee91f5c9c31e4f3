#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/magnitude.hpp"
#include "core/simd/simd.hpp"
#include "core/simd/tables.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

template <class S>
Magnitude magnitude_of(const Stored<S>& stored) {
    RunControl control;
    return magnitude(as_stored(stored), control);
}

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums of n squares of any order differ by n·eps of their sum.
template <class S>
void check_magnitude(const Dense& A, Layout layout) {
    const Magnitude found = magnitude_of(Stored<S>(A, layout));
    const double squares = A.squaredNorm();
    CHECK(found.largest == A.cwiseAbs().maxCoeff());
    CHECK(std::abs(found.squares - squares) <= static_cast<double>(A.size()) * eps<double>() * squares);
}

}  // namespace

TEST_CASE("the largest modulus and the sum of squares, in pieces of rows and of many rows") {
    for (const Layout layout : kLayouts)
        for (const auto& [rows, cols] : {std::pair<Index, Index>{37, 43}, {1, 1}, {3, 70001}, {5000, 30}}) {
            Dense A = random_dense(rows, cols, 1);
            A(rows - 1, cols - 1) = -7.5;
            check_magnitude<float>(A, layout);
            check_magnitude<double>(A, layout);
        }
    const Magnitude nothing = magnitude_of(Stored<double>(Dense::Zero(3, 5), Layout::row));
    CHECK(nothing.largest == 0.0);
    CHECK(nothing.squares == 0.0);
}

TEST_CASE("NaN for what is not finite, wherever it stands, and not for squares that overflow") {
    for (const Layout layout : kLayouts)
        for (const Index j : {Index{0}, Index{15}, Index{42}})
            for (const double bad : {kNaN, kInfinity, -kInfinity}) {
                Dense spoiled = random_dense(37, 43, 1);
                spoiled(36, j) = bad;
                CHECK(std::isnan(magnitude_of(Stored<float>(spoiled, layout)).largest));
                CHECK(std::isnan(magnitude_of(Stored<double>(spoiled, layout)).largest));
            }
    const Magnitude large = magnitude_of(Stored<double>(Dense::Constant(3, 5, -1e200), Layout::row));
    CHECK(large.largest == 1e200);
    CHECK(large.squares == kInfinity);
}

// Bits and their values: 0.5, −2, the largest number, the smallest one.
TEST_CASE("half precision on every instruction set, subnormal numbers included") {
    struct Case {
        Scalar scalar;
        std::vector<std::uint16_t> bits;
        std::vector<double> values;
        std::vector<std::uint16_t> bad;
    };
    const Case cases[] = {
        {Scalar::f16, {0x3800, 0xc000, 0x7bff, 0x0001}, {0.5, 2.0, 65504.0, 0x1p-24}, {0x7c00, 0xfc00, 0x7e00}},
        {Scalar::bf16, {0x3f00, 0xc000, 0x477f, 0x0001}, {0.5, 2.0, 65280.0, 0x1p-133}, {0x7f80, 0xff80, 0x7fc0}},
    };
    for (const simd::Table* table : simd::supported_tables())
        for (const Case& c : cases)
            for (const Index n : {Index{1}, Index{31}, Index{64}, Index{200}})
                for (std::size_t v = 0; v < 4; ++v) {
                    CAPTURE(table->name);
                    std::vector<std::uint16_t> bits(static_cast<std::size_t>(n), 0);
                    bits.back() = c.bits[v];
                    const Magnitude found = table->magnitude.stored(c.scalar, n, bits.data());
                    CHECK(found.largest == c.values[v]);
                    CHECK(found.squares == c.values[v] * c.values[v]);
                }
    for (const Case& c : cases)
        for (const std::uint16_t bad : c.bad) {
            std::vector<std::uint16_t> bits(200, c.bits[0]);
            bits[77] = bad;
            RunControl control;
            CHECK(std::isnan(magnitude({bits.data(), c.scalar, 10, 20, 20, 1}, control).largest));
        }
}
