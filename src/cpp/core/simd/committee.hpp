// Products of ±1 patterns held at one bit an entry (layout: core/wfm/patterns.hpp) with vectors, and counts of bits.
//
// Both products look up sums of a few signed entries, indexed by as many bits, and add what they find: with tables
// T[b] = Σ_j ±x_j, + where bit j of b is set, a lookup serves four edges in every lane.
//
//   fields  ω_μ += Σ_i ξ_{μi} m_i, a lane a pattern. A table for every b consecutive inputs; b = 4, or 3 where a
//           permutation has only eight entries. One line of the packed patterns is shifted by b bits at a time.
//   sums    S_i += Σ_μ ξ_{μi} g_μ, a lane an input. A table for every four consecutive patterns. The four bits come
//           together by `turn`: 4 × 4 words are transposed, then the bits of four words in two exchanges.
//
// Tables hold signed sums, so that nothing large cancels: results of size √n come from partial sums of that size. Sums
// are of T within a call and added to doubles at its end. With random signs the roundings of L lookups, each eps/√12 of
// a partial sum, make eps·√(L/24) of a call's result, and of the sum of many calls: 4e-7 in float for 1024 terms, which
// is the most that callers ask for.
//
// cost    AVX-512, float: three instructions (shift, permute, add) on 64 edges, 1.5 cycles on two vector ports; turning
//         adds a quarter to sums, once for all units that see a segment. AVX2, float: 24 edges, or 16 for sums.
//         Otherwise one addition from the first cache for 4 edges (8 lanes at a time with AVX-512, double).
// source  tables of sums: Arlazarov, Dinic, Kronrod and Faradzhev (1970), "Four Russians"
#pragma once

#include <cstddef>
#include <cstdint>

namespace flatcore::simd {

using Index = std::ptrdiff_t;

constexpr Index kLine = 16;        // words of a line: one of each pattern of a group
constexpr Index kTurnedWords = 4;  // words of a segment that are turned together: 128 inputs
constexpr Index kTurned = kTurnedWords * kLine;
constexpr Index kHalf = 64;          // inputs that `sums` adds for
constexpr Index kPatternTable = 16;  // entries of a table for four patterns
constexpr Index kGroupTables = 4 * kPatternTable;

template <class T>
struct CommitteeKernels {
    Index word_tables;  // entries of the tables for the 32 inputs of a word
    void (*tabulate_inputs)(Index inputs, const T* m, Index stride, T* tables);
    // ω (groups × 16) += the product of `groups` lines every `stride` words, and the lines behind each that hold the
    // inputs. Tables of one word after the other; bits past the inputs count nothing.
    void (*fields)(Index groups, Index stride, Index inputs, const std::uint32_t* lines, const T* tables,
                   double* omega);
    // g: `patterns` entries every `stride`; tables of whole groups, missing patterns count nothing.
    void (*tabulate_patterns)(Index patterns, const T* g, Index stride, T* tables);
    // S (64 inputs) += the sum over `groups` of turned words, kTurned apart.
    void (*sums)(Index groups, const std::uint32_t* turned, const T* tables, double* S);
};

struct BitKernels {
    // turned (groups × kTurned): of up to four words of each group. The word at 16q + 4L + c holds, four bits an input,
    // the inputs 4j + q of word c for the four patterns from 4L on: lowest bits input q, lowest bit pattern 4L.
    void (*turn)(Index groups, Index stride, Index words, const std::uint32_t* lines, std::uint32_t* turned);
    // counts (16) += how many bits of the patterns' words differ from `weights`.
    void (*differing)(Index words, const std::uint32_t* lines, const std::uint32_t* weights, std::uint32_t* counts);
};

template <class T>
const CommitteeKernels<T>& committee();

}  // namespace flatcore::simd
