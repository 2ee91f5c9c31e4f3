// Bit kernels of every instruction set against plain sums over bits; products, counts and packing over threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "core/simd/tables.hpp"
#include "core/wfm/patterns.hpp"
#include "helpers.hpp"

using namespace flatcore;
using namespace flatcore::testing;

namespace {

template <class T>
const simd::CommitteeKernels<T>& kernels_of(const simd::Table& table);
template <>
const simd::CommitteeKernels<float>& kernels_of(const simd::Table& table) {
    return table.committee32;
}
template <>
const simd::CommitteeKernels<double>& kernels_of(const simd::Table& table) {
    return table.committee64;
}

// Patterns of random words, also behind the last input.
struct Random : wfm::Patterns {
    std::vector<std::uint32_t> memory;

    Random(Index count, Index segments_, Index inputs_, unsigned seed) {
        patterns = count;
        segments = segments_;
        inputs = inputs_;
        memory.resize(static_cast<std::size_t>(size()));
        std::mt19937 engine(seed);
        for (std::uint32_t& word : memory) word = static_cast<std::uint32_t>(engine());
        data = memory.data();
    }
    double sign(Index mu, Index s, Index i) const { return (word(mu, s, i / 32) >> (i % 32)) & 1 ? 1.0 : -1.0; }
};

// Multiples of 1/16 below 64: sums of a thousand are exact in float.
template <class T>
std::vector<T> entries(Index count, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<int> digits(-1000, 1000);
    std::vector<T> out(static_cast<std::size_t>(count));
    for (T& value : out) value = static_cast<T>(digits(engine) / 16.0);
    return out;
}

template <class T>
void check_fields(const simd::Table& table, Index groups, Index inputs) {
    const auto& kernels = kernels_of<T>(table);
    const Random x(groups * wfm::kGroup, 1, inputs, 1);
    const auto m = entries<T>(2 * inputs, 2);  // every second one is read
    std::vector<T> tables(static_cast<std::size_t>(x.words() * kernels.word_tables));
    kernels.tabulate_inputs(inputs, m.data(), 2, tables.data());
    std::vector<double> omega(static_cast<std::size_t>(groups * wfm::kGroup), 5.0);
    kernels.fields(groups, x.group_words(), inputs, x.data, tables.data(), omega.data());
    for (Index mu = 0; mu < groups * wfm::kGroup; ++mu) {
        double expected = 5.0;
        for (Index i = 0; i < inputs; ++i) expected += x.sign(mu, 0, i) * m[static_cast<std::size_t>(2 * i)];
        CHECK(omega[static_cast<std::size_t>(mu)] == expected);
    }
}

template <class T>
void check_sums(const simd::Table& table, Index count, Index inputs) {
    const auto& kernels = kernels_of<T>(table);
    const Random x(count, 1, inputs, 3);
    const auto g = entries<T>(3 * count, 4);
    std::vector<T> tables(static_cast<std::size_t>(x.groups() * simd::kGroupTables));
    kernels.tabulate_patterns(count, g.data(), 3, tables.data());
    std::vector<std::uint32_t> turned(static_cast<std::size_t>(x.groups() * simd::kTurned));
    table.bits.turn(x.groups(), x.group_words(), x.words(), x.data, turned.data());
    std::vector<double> S(128, 7.0);
    for (Index half = 0; half < 2; ++half)
        kernels.sums(x.groups(), turned.data() + 2 * half, tables.data(), S.data() + half * simd::kHalf);
    for (Index i = 0; i < inputs; ++i) {
        double expected = 7.0;
        for (Index mu = 0; mu < count; ++mu) expected += x.sign(mu, 0, i) * g[static_cast<std::size_t>(3 * mu)];
        CHECK(S[static_cast<std::size_t>(i)] == expected);
    }
}

void check_differing(const simd::Table& table, Index words) {
    const Random x(wfm::kGroup, 1, 32 * words, 5);
    std::mt19937 engine(6);
    std::vector<std::uint32_t> weights(static_cast<std::size_t>(words)), counts(16, 9u);
    for (std::uint32_t& word : weights) word = static_cast<std::uint32_t>(engine());
    table.bits.differing(words, x.data, weights.data(), counts.data());
    for (Index mu = 0; mu < wfm::kGroup; ++mu) {
        std::uint32_t expected = 9;
        for (Index i = 0; i < 32 * words; ++i)
            expected += ((x.word(mu, 0, i / 32) ^ weights[static_cast<std::size_t>(i / 32)]) >> (i % 32)) & 1;
        CHECK(counts[static_cast<std::size_t>(mu)] == expected);
    }
}

// All results of one machine on random patterns.
template <class T>
struct Results {
    Matrix<T> omega, S;
    std::vector<std::int32_t> fields;
    std::vector<std::int64_t> errors;
    std::vector<std::uint32_t> rows, packed;
    std::vector<std::uint8_t> strings;
};

template <class T>
Results<T> results_on(int threads, const Random& x, Index units) {
    const ThreadScope scope(threads);
    const Index machines = 5, vector = units * x.words(), bytes = (x.segments * x.inputs + 7) / 8;
    const auto m = entries<T>(units * x.inputs, 7), g = entries<T>(x.patterns * units, 8);
    const Random w(machines * units, 1, x.inputs, 9);
    std::vector<std::uint32_t> weights(w.memory.begin(), w.memory.begin() + machines * vector);
    for (std::size_t at = 0; at < weights.size(); ++at)  // zeros behind the last input
        if (static_cast<Index>(at + 1) % x.words() == 0 && x.inputs % 32 != 0) weights[at] %= 1u << (x.inputs % 32);
    std::vector<std::int8_t> labels(static_cast<std::size_t>(x.patterns));
    for (std::size_t mu = 0; mu < labels.size(); ++mu) labels[mu] = mu % 3 == 0 ? 1 : -1;
    Results<T> out{Matrix<T>(x.patterns, units), Matrix<T>(units, x.inputs), {}, {}, {}, {}, {}};
    out.strings.resize(static_cast<std::size_t>(x.patterns * bytes));
    wfm::unpack(x, 0, x.patterns, out.strings.data(), bytes);
    out.packed.resize(x.memory.size());
    wfm::pack(x, out.strings.data(), bytes, 0, x.patterns, out.packed.data());
    wfm::Patterns clean = x;  // without the random bits behind segments
    clean.data = out.packed.data();
    RunControl control;
    wfm::fields<T>(clean, {m.data(), units, x.inputs}, out.omega.view(), control);
    wfm::sums<T>(clean, {g.data(), x.patterns, units}, out.S.view(), control);
    out.fields.resize(static_cast<std::size_t>(x.patterns * units));
    wfm::binary_fields(clean, units, weights.data(), out.fields.data(), control);
    out.errors.resize(static_cast<std::size_t>(machines));
    wfm::binary_errors(clean, machines, units, weights.data(), labels.data(), false, out.errors.data(), control);
    out.rows.resize(static_cast<std::size_t>(x.patterns * x.segments * x.words()));
    wfm::rows(clean, out.rows.data());
    return out;
}

template <class T>
void check_threads(Index count, Index segments, Index inputs, Index units) {
    const Random x(count, segments, inputs, 10);
    const Results<T> one = results_on<T>(1, x, units), three = results_on<T>(3, x, units);
    CHECK(std::equal(one.omega.data(), one.omega.data() + count * units, three.omega.data()));
    CHECK(std::equal(one.S.data(), one.S.data() + units * inputs, three.S.data()));
    CHECK(one.fields == three.fields);
    CHECK(one.errors == three.errors);
    CHECK(one.rows == three.rows);
    CHECK(one.packed == three.packed);
    CHECK(one.strings == three.strings);
}

// Fields as `then` finds them, and sums of what it leaves: all terms are exact, so that any order gives the same bits.
template <class T>
void check_both(Index count, Index segments, Index inputs, Index units, bool with_turned, int threads) {
    const ThreadScope scope(threads);
    const Random random(count, segments, inputs, 11);
    wfm::Patterns x = random;
    const std::vector<std::uint32_t> turned = with_turned ? wfm::turned(x) : std::vector<std::uint32_t>{};
    if (!turned.empty()) x.turned = turned.data();
    const auto m = entries<T>(units * inputs, 12), g = entries<T>(count * units, 13);
    Matrix<T> omega(count, units), S(units, inputs), fields(count, units), sums(units, inputs), seen(count, units);
    RunControl control;
    wfm::fields<T>(random, {m.data(), units, inputs}, fields.view(), control);
    wfm::sums<T>(random, {g.data(), count, units}, sums.view(), control);
    const auto then = [&](Index piece, Index first, Index last) {
        CHECK((0 <= piece && piece < threads));
        const auto range = [&](const T* all) { return all + first * units; };
        std::copy(range(omega.data()), range(omega.data()) + (last - first) * units, seen.data() + first * units);
        std::copy(range(g.data()), range(g.data()) + (last - first) * units, omega.data() + first * units);
    };
    wfm::fields_then_sums<T>(x, {m.data(), units, inputs}, omega.view(), S.view(), control, {then, 0.0});
    CHECK(std::equal(seen.data(), seen.data() + count * units, fields.data()));
    CHECK(std::equal(S.data(), S.data() + units * inputs, sums.data()));
}

}  // namespace

TEST_CASE("fields, and sums of what is made of them, in one share, several, and more than stay with a thread") {
    for (const int threads : {1, 3}) {
        for (const bool turned : {false, true}) {
            CAPTURE(threads);
            CAPTURE(turned);
            check_both<float>(37, 1, 77, 1, turned, threads);
            check_both<float>(700, 1, 1003, 1, turned, threads);
            check_both<double>(517, 3, 333, 3, turned, threads);
            check_both<float>(900, 1, 259, 4, turned, threads);
            check_both<float>(2100, 1, 1025, 2, turned, threads);
        }
    }
}

TEST_CASE("bit kernels of every set are sums over bits") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(std::string(table->name));
        for (const Index inputs : {1, 3, 31, 32, 33, 64, 77, 111, 128}) {
            CAPTURE(inputs);
            for (const Index groups : {1, 3, 4, 6}) {
                check_fields<float>(*table, groups, inputs);
                check_fields<double>(*table, groups, inputs);
            }
            for (const Index count : {1, 4, 15, 16, 35}) {
                check_sums<float>(*table, count, inputs);
                check_sums<double>(*table, count, inputs);
            }
        }
        for (const Index words : {1, 7, 8, 9, 40, 247, 248, 250, 520}) check_differing(*table, words);
    }
}

TEST_CASE("threads give the same bits of products with patterns") {
    check_threads<float>(4200, 1, 1111, 1);
    check_threads<float>(1100, 3, 333, 3);
    check_threads<double>(1100, 1, 515, 5);
}
