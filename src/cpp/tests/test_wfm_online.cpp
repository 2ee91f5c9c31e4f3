// The online kernels of every instruction set, and replicas and errors on several threads.
#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/parallel.hpp"
#include "core/simd/tables.hpp"
#include "core/wfm/online.hpp"
#include "helpers.hpp"

using namespace flatcore;

namespace {

struct Bits {
    Bits(Index n, unsigned seed) : words(static_cast<std::size_t>((n + 31) / 32), 0u) {
        std::mt19937 rng(seed);
        for (Index i = 0; i < n; ++i) words[static_cast<std::size_t>(i / 32)] |= (rng() & 1u) << (i % 32);
    }
    double sign(Index i) const { return (words[static_cast<std::size_t>(i / 32)] >> (i % 32)) & 1u ? 1.0 : -1.0; }
    std::vector<std::uint32_t> words;
};

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

void check_kernels(const simd::OnlineKernels& kernels, Index n) {
    CAPTURE(n);
    const Bits x(n, 1), y(n, 2);
    const Index words = static_cast<Index>(x.words.size());
    std::mt19937 rng(3);
    std::vector<double> w(at(32 * words), 0.0);
    std::vector<std::int32_t> H(at(32 * words), 0);
    Index differing = 0;
    double dot = 0.0, size = 0.0;
    for (Index i = 0; i < n; ++i) {
        w[at(i)] = std::uniform_real_distribution<>(-1.0, 1.0)(rng);
        H[at(i)] = static_cast<std::int32_t>(2 * (rng() % 3)) - 1;  // −1, 1, 3
        differing += x.sign(i) != y.sign(i);
        dot += x.sign(i) * w[at(i)];
        size += std::abs(w[at(i)]);
    }
    CHECK(kernels.differing(words, x.words.data(), y.words.data()) == differing);
    CHECK(std::abs(kernels.dot(words, x.words.data(), w.data()) - dot) <= 1e-13 * (1.0 + size));
    std::vector<double> added = w;
    kernels.add(n, x.words.data(), 0.25, added.data());
    std::vector<std::int32_t> turned = H;
    std::vector<std::uint32_t> signs(x.words.size(), ~0u);
    kernels.turn(n, x.words.data(), 2, turned.data(), signs.data());
    for (Index i = 0; i < 32 * words; ++i) {
        CAPTURE(i);
        CHECK(added[at(i)] == (i < n ? w[at(i)] + 0.25 * x.sign(i) : 0.0));
        CHECK(turned[at(i)] == (i < n ? H[at(i)] + static_cast<std::int32_t>(2 * x.sign(i)) : 0));
        CHECK(((signs[at(i / 32)] >> (i % 32)) & 1u) == (turned[at(i)] > 0 ? 1u : 0u));
    }
}

// A full committee of three units, with fields of many signs.
struct Machine {
    Machine(Index n, Index P) : labels(at(P)) {
        data.patterns = P;
        data.inputs = n;
        data.units = 3;
        std::mt19937 rng(4);
        for (Index mu = 0; mu < P; ++mu) {
            const Bits x(n, static_cast<unsigned>(100 + mu));
            rows.insert(rows.end(), x.words.begin(), x.words.end());
            labels[at(mu)] = rng() & 1u ? 1 : -1;
        }
        data.rows = rows.data();
        data.labels = labels.data();
        static_cast<wfm::PatternLayout&>(patterns) = data;
        words.resize(at(patterns.size()));
        for (Index mu = 0; mu < P; ++mu)
            for (Index c = 0; c < data.words(); ++c)
                words[at((mu / wfm::kGroup) * data.group_words() + c * wfm::kGroup + mu % wfm::kGroup)] =
                    rows[at(mu * data.words() + c)];
        patterns.data = words.data();
    }
    wfm::OnlinePatterns data;
    wfm::Patterns patterns;
    std::vector<std::uint32_t> rows, words;
    std::vector<std::int8_t> labels;
};

}  // namespace

TEST_CASE("online kernels of every instruction set") {
    for (const simd::Table* table : simd::supported_tables()) {
        CAPTURE(table->name);
        for (const Index n : {1, 7, 8, 31, 32, 33, 51, 64, 65, 96, 111, 143, 1001}) check_kernels(table->online, n);
    }
}

TEST_CASE("replicas and errors do not depend on the number of threads") {
    const Machine machine(501, 400);
    const Index y = 5, weights = 3 * 501;
    std::mt19937 rng(5);
    std::vector<double> start(at(y * weights));
    for (double& h : start) h = rng() & 1u ? 1.0 : -1.0;
    std::vector<std::int64_t> orders;
    for (Index a = 0; a < y; ++a)
        for (Index mu = 0; mu < 400; ++mu) orders.push_back((mu * 7 + a) % 400);
    RunControl control;
    std::vector<double> results[2];
    std::vector<std::int64_t> errors[2];
    for (int i = 0; i < 2; ++i) {
        const testing::ThreadScope threads(i == 0 ? 1 : 4);
        results[i] = start;
        CHECK(wfm::replicated_epoch(machine.data, orders.data(), {y, 400, 0.75, 0.1}, results[i].data(), control) > 0);
        errors[i].resize(at(y));
        wfm::count_errors(machine.patterns, machine.data.labels, false, 3, y, results[i].data(), errors[i].data(),
                          control);
    }
    CHECK(results[0] == results[1]);
    CHECK(results[0] != start);
    CHECK(errors[0] == errors[1]);
    CHECK(errors[0][0] > 0);
}
