#include "core/wfm/patterns.hpp"

#include <algorithm>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kGroupsPerThread = 4;

bool bit(const std::uint8_t* string, Index i) { return (string[i / 8] >> (i % 8)) & 1; }

void check_units(const PatternLayout& layout, Index units, Index inputs) {
    require(inputs == layout.inputs, "units of ", inputs, " inputs; the patterns' have ", layout.inputs);
    require(layout.segments == 1 || units == layout.segments, units, " units; the patterns are cut into ",
            layout.segments, " segments");
}

}  // namespace

void pack(const PatternLayout& layout, const std::uint8_t* strings, Index bytes, Index first, Index count,
          std::uint32_t* words) {
    require(first >= 0 && first + count <= layout.patterns && bytes * 8 >= layout.segments * layout.inputs,
            "patterns to pack do not fit");
    for (Index row = 0; row < count; ++row) {
        const Index mu = first + row;
        std::uint32_t* const out = words + (mu / kGroup) * layout.group_words() + mu % kGroup;
        for (Index s = 0; s < layout.segments; ++s) {
            for (Index c = 0; c < layout.words(); ++c) {
                const Index begin = c * kWord, end = std::min(layout.inputs, begin + kWord);
                std::uint32_t word = 0;
                for (Index i = begin; i < end; ++i)
                    word |= std::uint32_t{bit(strings + row * bytes, s * layout.inputs + i)} << (i - begin);
                out[(s * layout.words() + c) * kGroup] = word;
            }
        }
    }
}

void unpack(const Patterns& patterns, Index first, Index count, std::uint8_t* strings, Index bytes) {
    require(first >= 0 && first + count <= patterns.patterns && bytes * 8 >= patterns.segments * patterns.inputs,
            "patterns to unpack do not fit");
    std::fill_n(strings, count * bytes, std::uint8_t{0});
    for (Index row = 0; row < count; ++row) {
        std::uint8_t* const out = strings + row * bytes;
        for (Index s = 0; s < patterns.segments; ++s) {
            for (Index i = 0; i < patterns.inputs; ++i) {
                const std::uint32_t one = (patterns.word(first + row, s, i / kWord) >> (i % kWord)) & 1;
                const Index at = s * patterns.inputs + i;
                out[at / 8] = static_cast<std::uint8_t>(out[at / 8] | (one << (at % 8)));
            }
        }
    }
}

template <class T>
void fields(const Patterns& patterns, ConstMatrixView<T> m, MatrixView<T> omega, RunControl& control) {
    check_units(patterns, m.rows, m.cols);
    const Index units = m.rows, n = patterns.inputs;
    parallel_ranges(patterns.groups(), kGroupsPerThread, [&](Index first, Index last) {
        const Index begin = first * kGroup, end = std::min(patterns.patterns, last * kGroup);
        for (Index mu = begin; mu < end; ++mu) {
            for (Index k = 0; k < units; ++k) {
                T sum = T(0);
                for (Index i = 0; i < n; ++i) {
                    const bool plus = (patterns.word(mu, patterns.segment_of(k), i / kWord) >> (i % kWord)) & 1;
                    sum += plus ? m(k, i) : -m(k, i);
                }
                omega(mu, k) = sum;
            }
        }
    });
    control.checkpoint();
}

template <class T>
void sums(const Patterns& patterns, ConstMatrixView<T> g, MatrixView<T> S, RunControl& control) {
    check_units(patterns, S.rows, S.cols);
    const Index units = S.rows, words = patterns.words();
    parallel_ranges(units * words, 1, [&](Index first, Index last) {
        for (Index at = first; at < last; ++at) {
            const Index k = at / words, c = at % words, segment = patterns.segment_of(k);
            const Index begin = c * kWord, end = std::min(patterns.inputs, begin + kWord);
            for (Index i = begin; i < end; ++i) S(k, i) = T(0);
            for (Index mu = 0; mu < patterns.patterns; ++mu) {
                const std::uint32_t word = patterns.word(mu, segment, c);
                for (Index i = begin; i < end; ++i) S(k, i) += (word >> (i - begin)) & 1 ? g(mu, k) : -g(mu, k);
            }
        }
    });
    control.checkpoint();
}

template void fields<float>(const Patterns&, ConstMatrixView<float>, MatrixView<float>, RunControl&);
template void fields<double>(const Patterns&, ConstMatrixView<double>, MatrixView<double>, RunControl&);
template void sums<float>(const Patterns&, ConstMatrixView<float>, MatrixView<float>, RunControl&);
template void sums<double>(const Patterns&, ConstMatrixView<double>, MatrixView<double>, RunControl&);

}  // namespace flatcore::wfm
