// Patterns of ±1 entries at one bit an entry, and the two products that committee machines are made of.
//
//   ξ (P patterns × S·n inputs), bit 1 for +1.  S segments of n inputs: a tree committee's units see one segment each,
//   all units of a full one (and a perceptron) see the single segment. Unit k sees segment k, or 0 where S = 1.
//
//   fields:  ω_{μk} = Σ_i ξ_{μ,k,i} m_{ki}     m: K × n, ω: P × K
//   sums:    S_{ki} = Σ_μ ξ_{μ,k,i} g_{μk}     g: P × K, S: K × n       (the transpose)
//
// Layout: a segment is C = ⌈n/32⌉ words, the lowest bit first, its last word padded with zeros; 16 patterns are
// interleaved word by word, words[((group·S + s)·C + c)·16 + row], so that one 64-byte line holds 32 inputs of 16
// patterns. Both products read each line once; missing patterns of the last group are zeros and never reported.
//
// Both are sums of looked-up sums of four (core/simd/committee.hpp), in T over a thousand terms, then in double. A
// result does not depend on the number of threads: one of them makes a field, and one all of an input's sums (of a
// share of the patterns, of which there are as many as the sizes say), in a fixed order.
//
// cost    one pass over P·S·n/8 bytes each, P·K·n signed additions, four an instruction of each of three kinds and lane
// source  docs/wide-flat-minima.md
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/run_control.hpp"
#include "core/views.hpp"

namespace flatcore::wfm {

constexpr Index kGroup = 16;  // patterns interleaved
constexpr Index kWord = 32;   // inputs a word

struct PatternLayout {
    Index patterns = 0, segments = 1, inputs = 0;  // inputs: n, of one segment

    Index words() const { return (inputs + kWord - 1) / kWord; }
    Index groups() const { return (patterns + kGroup - 1) / kGroup; }
    Index group_words() const { return segments * words() * kGroup; }
    Index size() const { return groups() * group_words(); }
};

struct Patterns : PatternLayout {
    const std::uint32_t* data = nullptr;
    const std::uint32_t* turned = nullptr;  // from `turned`, which spares sums a fifth of their time

    // Word c of segment s of pattern mu.
    std::uint32_t word(Index mu, Index s, Index c) const {
        return data[(mu / kGroup) * group_words() + (s * words() + c) * kGroup + mu % kGroup];
    }
    Index segment_of(Index unit) const { return segments == 1 ? 0 : unit; }
};

// Rows first … first + count − 1 from bit strings of `bytes` bytes each, S·n bits, the lowest bit of each byte first.
void pack(const PatternLayout& layout, const std::uint8_t* strings, Index bytes, Index first, Index count,
          std::uint32_t* words);
void unpack(const Patterns& patterns, Index first, Index count, std::uint8_t* strings, Index bytes);

// The words pattern by pattern: P × S × C.
void rows(const Patterns& patterns, std::uint32_t* out);

// A second copy of patterns that stay in the second cache, as sums want them (core/simd/committee.hpp); empty for more.
std::vector<std::uint32_t> turned(const Patterns& patterns);

// The words of ±1 entries (rows × n): rows × C.
void pack_signs(Index rows, Index inputs, const std::int8_t* signs, std::uint32_t* words);

// What is done with fields while they are in a thread's cache: call(piece, first, last) on the thread that has made
// those of the patterns first … last − 1, pieces numbered below max_threads(). A pattern costs as much as `edges`
// edges.
struct WithFields {
    std::function<void(Index piece, Index first, Index last)> call;
    double edges = 0.0;
};

// m: K × n row-major. ω: P × K.
template <class T>
void fields(const Patterns& patterns, ConstMatrixView<T> m, MatrixView<T> omega, RunControl& control,
            const WithFields& then = {});

// g: P × K row-major. S: K × n.
template <class T>
void sums(const Patterns& patterns, ConstMatrixView<T> g, MatrixView<T> S, RunControl& control);

// Both: then.call makes g of the fields, in ω. A small machine's patterns are cut into shares, the sums of which are
// added in order: the thread that has made a share's fields makes its sums too, and hands over K·n numbers.
template <class T>
void fields_then_sums(const Patterns& patterns, ConstMatrixView<T> m, MatrixView<T> omega, MatrixView<T> S,
                      RunControl& control, const WithFields& then);

// Fields P × K of weights ±1, given as words K × C: n − 2·(bits that differ).
void binary_fields(const Patterns& patterns, Index units, const std::uint32_t* weights, std::int32_t* omega,
                   RunControl& control);

// errors[b], b < machines: how many patterns the machine with the weights b (words K × C, n odd) gets wrong. Its output
// is the majority of its units' signs, or their product.
void binary_errors(const Patterns& patterns, Index machines, Index units, const std::uint32_t* weights,
                   const std::int8_t* labels, bool parity, std::int64_t* errors, RunControl& control);

}  // namespace flatcore::wfm
