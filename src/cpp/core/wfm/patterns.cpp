#include "core/wfm/patterns.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/simd.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kFieldWords = 32;                       // a chunk of fields: 1024 inputs, tables of 16 kB
constexpr Index kFieldGroups = 64;                      // and so many groups, whose lines stay in the second cache
constexpr Index kTileGroups = 4;                        // lines that stay in the first cache for all units
constexpr Index kSumGroups = 64;                        // a chunk of sums: 1024 patterns
constexpr Index kFarSumGroups = 16;                     // and where they come from memory, which likes few streams
constexpr Index kNearWords = Index{1} << 18;            // patterns that stay in the second cache
constexpr Index kBlock = simd::kTurnedWords * kWord;    // inputs turned together
constexpr Index kCountWords = 128, kCountVectors = 64;  // a chunk of counts: 8 kB of lines, 32 kB of weights
constexpr Index kEdgesPerThread = Index{1} << 19;       // a few microseconds
constexpr Index kEdgesPerShare = Index{1} << 18;        // of patterns that a thread keeps for both products
constexpr Index kMostShares = 16;                       // beyond which handing over ω and g costs nothing
constexpr double kEdgesPerPiece = 5e8;                  // between checkpoints: 0.1 s for the slowest set
constexpr Index kBytesPerThread = Index{1} << 18;       // packed or unpacked

void check_units(const PatternLayout& layout, Index units, Index inputs) {
    require(inputs == layout.inputs, "units of ", inputs, " inputs; the patterns' have ", layout.inputs);
    require(layout.segments == 1 || units == layout.segments, units, " units; the patterns are cut into ",
            layout.segments, " segments");
}

// Blocks of a segment, whose inputs are turned together.
Index blocks_of(const PatternLayout& layout) { return (layout.inputs + kBlock - 1) / kBlock; }

// Units that see a segment: one of a tree, all of a full committee.
struct Units {
    Index first, last;
};
Units units_of(const PatternLayout& layout, Index segment, Index units) {
    return layout.segments == 1 ? Units{0, units} : Units{segment, segment + 1};
}

// body(first, last) over pieces of [0, n), with `edges` edges each one of n, and a checkpoint behind each piece.
template <class Body>
void pieces(Index n, double edges, Index multiple, RunControl& control, const Body& body) {
    const Index most = std::max<Index>(1, static_cast<Index>(kEdgesPerPiece / edges) / multiple) * multiple;
    for (Index first = 0; first < n; first += most) {
        body(first, std::min(n, first + most));
        control.checkpoint(static_cast<double>(std::min(n, first + most)) / static_cast<double>(n));
    }
}

Index grain_of(double edges) { return static_cast<Index>(static_cast<double>(kEdgesPerThread) / edges) + 1; }

// Up to eight bytes from `at` on, fewer at the end of a string.
std::uint64_t bytes_from(const std::uint8_t* string, Index bytes, Index at) {
    std::uint64_t out = 0;
    if (bytes - at >= 8)
        std::memcpy(&out, string + at, 8);  // one load
    else
        std::memcpy(&out, string + at, static_cast<std::size_t>(bytes - at));
    return out;
}

std::uint32_t low_bits(Index count) { return count >= kWord ? ~0u : (1u << count) - 1u; }

}  // namespace

void pack(const PatternLayout& layout, const std::uint8_t* strings, Index bytes, Index first, Index count,
          std::uint32_t* words) {
    require(first >= 0 && first + count <= layout.patterns && bytes * 8 >= layout.segments * layout.inputs,
            "patterns to pack do not fit");
    const Index from = first / kGroup, to = (first + count + kGroup - 1) / kGroup;
    parallel_ranges(to - from, kBytesPerThread / (kGroup * bytes) + 1, [&](Index begin, Index end) {
        for (Index group = from + begin; group < from + end; ++group) {
            const Index top = std::max(first, group * kGroup), bottom = std::min(first + count, (group + 1) * kGroup);
            std::uint32_t* line = words + group * layout.group_words();
            for (Index s = 0; s < layout.segments; ++s) {
                for (Index i = 0; i < layout.inputs; i += kWord, line += kGroup) {
                    const Index bit = s * layout.inputs + i;
                    const std::uint32_t mask = low_bits(layout.inputs - i);
                    for (Index mu = top; mu < bottom; ++mu) {
                        const std::uint64_t eight = bytes_from(strings + (mu - first) * bytes, bytes, bit / 8);
                        line[mu - group * kGroup] = static_cast<std::uint32_t>(eight >> (bit % 8)) & mask;
                    }
                }
            }
        }
    });
}

namespace {

// Words go behind each other at any bit: what does not fill 32 bits waits.
void unpack_row(const Patterns& patterns, Index mu, std::uint8_t* out, Index bytes) {
    std::uint8_t* const end = out + bytes;
    std::uint64_t waiting = 0;
    Index bits = 0;
    for (Index s = 0; s < patterns.segments; ++s) {
        for (Index c = 0; c < patterns.words(); ++c) {
            const Index left = patterns.inputs - c * kWord;
            waiting |= std::uint64_t{patterns.word(mu, s, c) & low_bits(left)} << bits;
            bits += std::min(left, kWord);
            if (bits < kWord) continue;
            std::memcpy(out, &waiting, 4);
            out += 4;
            waiting >>= kWord;
            bits -= kWord;
        }
    }
    for (; out < end; ++out, waiting >>= 8) *out = static_cast<std::uint8_t>(waiting);
}

}  // namespace

void unpack(const Patterns& patterns, Index first, Index count, std::uint8_t* strings, Index bytes) {
    require(first >= 0 && first + count <= patterns.patterns && bytes * 8 >= patterns.segments * patterns.inputs,
            "patterns to unpack do not fit");
    parallel_ranges(count, kBytesPerThread / bytes + 1, [&](Index begin, Index end) {
        for (Index row = begin; row < end; ++row) unpack_row(patterns, first + row, strings + row * bytes, bytes);
    });
}

void rows(const Patterns& patterns, std::uint32_t* out) {
    const Index words = patterns.segments * patterns.words();
    parallel_ranges(patterns.groups(), kBytesPerThread / (4 * kGroup * words) + 1, [&](Index begin, Index end) {
        for (Index group = begin; group < end; ++group) {
            const std::uint32_t* const lines = patterns.data + group * patterns.group_words();
            const Index top = group * kGroup, bottom = std::min(patterns.patterns, top + kGroup);
            for (Index c = 0; c < words; ++c)
                for (Index mu = top; mu < bottom; ++mu) out[mu * words + c] = lines[c * kGroup + mu - top];
        }
    });
}

void pack_signs(Index rows, Index inputs, const std::int8_t* signs, std::uint32_t* words) {
    const Index count = (inputs + kWord - 1) / kWord;
    parallel_ranges(rows * count, kBytesPerThread / kWord, [&](Index begin, Index end) {
        for (Index at = begin; at < end; ++at) {
            const Index first = at % count * kWord;
            const std::int8_t* const row = signs + at / count * inputs + first;
            std::uint32_t word = 0;
            for (Index i = 0; i < std::min(kWord, inputs - first); ++i) word |= std::uint32_t{row[i] > 0} << i;
            words[at] = word;
        }
    });
}

namespace {

// Every thread makes its own tables: reading another one's takes longer.
template <class T>
Matrix<T> tables_of_inputs(const Patterns& patterns, ConstMatrixView<T> m) {
    const auto& kernels = simd::committee<T>();
    Matrix<T> tables(m.rows, patterns.words() * kernels.word_tables);
    for (Index k = 0; k < m.rows; ++k)
        kernels.tabulate_inputs(patterns.inputs, m.data + k * m.row_stride, m.col_stride,
                                tables.data() + k * tables.cols());
    return tables;
}

// Of groups from … to − 1.
template <class T>
Matrix<T> tables_of_patterns(const Patterns& patterns, ConstMatrixView<T> g, Index from, Index to) {
    const Index first = from * kGroup, count = std::min(patterns.patterns, to * kGroup) - first;
    Matrix<T> tables(g.cols, (to - from) * simd::kGroupTables);
    for (Index k = 0; k < g.cols; ++k)
        simd::committee<T>().tabulate_patterns(count, &g(first, k), g.row_stride, tables.data() + k * tables.cols());
    return tables;
}

// Fields of groups first … last − 1, chunk by chunk: a chunk's tables serve all groups of a block.
template <class T>
void fields_of_groups(const Patterns& patterns, const Matrix<T>& tables, Index first, Index last, MatrixView<T> omega) {
    const auto& kernels = simd::committee<T>();
    const Index units = omega.cols, n = patterns.inputs, stride = patterns.group_words();
    Matrix<double> sums = Matrix<double>::zeros(units, kFieldGroups * kGroup);
    for (Index block = first; block < last; block += kFieldGroups) {
        const Index groups = std::min(kFieldGroups, last - block);
        for (Index s = 0; s < patterns.segments; ++s) {
            const Units seen = units_of(patterns, s, units);
            for (Index c = 0; c < patterns.words(); c += kFieldWords) {
                const Index inputs = std::min(n - c * kWord, kFieldWords * kWord);
                for (Index g = 0; g < groups; g += kTileGroups) {
                    const std::uint32_t* const lines =
                        patterns.data + (block + g) * stride + (s * patterns.words() + c) * kGroup;
                    for (Index k = seen.first; k < seen.last; ++k)
                        kernels.fields(std::min(kTileGroups, groups - g), stride, inputs, lines,
                                       tables.data() + k * tables.cols() + c * kernels.word_tables,
                                       sums.data() + (k * kFieldGroups + g) * kGroup);
                }
            }
        }
        const Index from = block * kGroup, to = std::min(patterns.patterns, from + groups * kGroup);
        for (Index k = 0; k < units; ++k) {
            double* const row = sums.data() + k * kFieldGroups * kGroup;
            for (Index mu = from; mu < to; ++mu) omega(mu, k) = static_cast<T>(row[mu - from]);
            std::fill(row, row + groups * kGroup, 0.0);
        }
    }
}

// Lines of `groups` groups turned, of the inputs of a block (numbered on from segment to segment).
void turn_block(const Patterns& patterns, Index group, Index groups, Index block, std::uint32_t* turned) {
    const Index words = patterns.words(), blocks = blocks_of(patterns), c = block % blocks * simd::kTurnedWords;
    simd::table().bits.turn(groups, patterns.group_words(), std::min(simd::kTurnedWords, words - c),
                            patterns.data + group * patterns.group_words() + (block / blocks * words + c) * kGroup,
                            turned);
}

// Sums of the blocks first … last − 1 of 128 inputs over the groups from … to − 1, which the tables are of.
template <class T>
void sums_of_blocks(const Patterns& patterns, const Matrix<T>& tables, Index from, Index to, Index first, Index last,
                    Matrix<double>& out) {
    const auto& kernels = simd::committee<T>();
    const Index words = patterns.words(), blocks = blocks_of(patterns);
    const Index chunk = patterns.size() <= kNearWords ? kSumGroups : kFarSumGroups;
    Matrix<std::uint32_t> own(patterns.turned == nullptr ? chunk : 0, simd::kTurned);
    for (Index group = from; group < to; group += chunk) {
        const Index groups = std::min(chunk, to - group);
        for (Index block = first; block < last; ++block) {
            const Index s = block / blocks, b = block % blocks;
            const std::uint32_t* turned = own.data();
            if (patterns.turned != nullptr)
                turned = patterns.turned + (block * patterns.groups() + group) * simd::kTurned;
            else
                turn_block(patterns, group, groups, block, own.data());
            const Index halves = (std::min(simd::kTurnedWords, words - b * simd::kTurnedWords) + 1) / 2;
            const Units seen = units_of(patterns, s, tables.rows());
            for (Index k = seen.first; k < seen.last; ++k)
                for (Index half = 0; half < halves; ++half)
                    kernels.sums(groups, turned + 2 * half,
                                 tables.data() + k * tables.cols() + (group - from) * simd::kGroupTables,
                                 out.data() + k * out.cols() + b * kBlock + half * simd::kHalf);
        }
    }
}

}  // namespace

std::vector<std::uint32_t> turned(const Patterns& patterns) {
    const Index groups = patterns.groups(), blocks = patterns.segments * blocks_of(patterns);
    if (patterns.size() > kNearWords) return {};
    std::vector<std::uint32_t> out(static_cast<std::size_t>(blocks * groups * simd::kTurned));
    for (Index block = 0; block < blocks; ++block)
        turn_block(patterns, 0, groups, block, out.data() + block * groups * simd::kTurned);
    return out;
}

template <class T>
void fields(const Patterns& patterns, ConstMatrixView<T> m, MatrixView<T> omega, RunControl& control,
            const WithFields& then) {
    check_units(patterns, m.rows, m.cols);
    const Index units = m.rows, n = patterns.inputs;
    const double edges = static_cast<double>(kGroup) * (static_cast<double>(n * units) + then.edges);
    pieces(patterns.groups(), edges, 1, control, [&](Index from, Index to) {
        const Index cut = parallel_pieces(to - from, grain_of(edges));
        parallel_pieces_of(to - from, cut, [&](Index piece, Index first, Index last) {
            fields_of_groups(patterns, tables_of_inputs(patterns, m), from + first, from + last, omega);
            if (then.call)
                then.call(piece, (from + first) * kGroup, std::min(patterns.patterns, (from + last) * kGroup));
        });
    });
}

namespace {

// S = the parts (units × whole blocks), added up in order into the first.
template <class T>
void add_parts(std::vector<Matrix<double>>& parts, MatrixView<T> S) {
    double* const sum = parts[0].data();
    const Index ld = parts[0].cols(), size = parts[0].rows() * ld;
    for (std::size_t p = 1; p < parts.size(); ++p) {
        const double* const part = parts[p].data();
        for (Index i = 0; i < size; ++i) sum[i] += part[i];
    }
    for (Index k = 0; k < S.rows; ++k)
        for (Index i = 0; i < S.cols; ++i) S(k, i) = static_cast<T>(sum[k * ld + i]);
}

}  // namespace

template <class T>
void sums(const Patterns& patterns, ConstMatrixView<T> g, MatrixView<T> S, RunControl& control) {
    check_units(patterns, S.rows, S.cols);
    const Index groups = patterns.groups(), blocks = patterns.segments * blocks_of(patterns);
    std::vector<Matrix<double>> parts(1);
    parts[0] = Matrix<double>::zeros(S.rows, blocks_of(patterns) * kBlock);
    const double edges = static_cast<double>(S.cols * S.rows);
    pieces(groups, edges * kGroup, kSumGroups, control, [&](Index from, Index to) {
        const double each = edges * static_cast<double>(kGroup * (to - from)) / static_cast<double>(blocks);
        parallel_ranges(blocks, grain_of(each), [&](Index first, Index last) {
            sums_of_blocks(patterns, tables_of_patterns(patterns, g, from, to), from, to, first, last, parts[0]);
        });
    });
    add_parts(parts, S);
}

template <class T>
void fields_then_sums(const Patterns& patterns, ConstMatrixView<T> m, MatrixView<T> omega, MatrixView<T> S,
                      RunControl& control, const WithFields& then) {
    check_units(patterns, m.rows, m.cols);
    const Index units = m.rows, groups = patterns.groups(), edges = patterns.patterns * units * patterns.inputs;
    if (edges > kMostShares * kEdgesPerShare) {
        fields(patterns, m, omega, control, then);
        sums(patterns, ConstMatrixView<T>(omega), S, control);
        return;
    }
    const Index blocks = blocks_of(patterns), tiles = (groups + kTileGroups - 1) / kTileGroups;
    const Index shares = std::clamp<Index>(edges / kEdgesPerShare, 1, tiles);
    const auto start = [&](Index share) { return std::min(groups, tiles * share / shares * kTileGroups); };
    std::vector<Matrix<double>> parts(static_cast<std::size_t>(shares));
    parallel_pieces_of(shares, parallel_pieces(shares, 1), [&](Index piece, Index first, Index last) {
        const Matrix<T> tables = tables_of_inputs(patterns, m);
        for (Index share = first; share < last; ++share) {
            const Index from = start(share), to = start(share + 1);
            fields_of_groups(patterns, tables, from, to, omega);
            then.call(piece, from * kGroup, std::min(patterns.patterns, to * kGroup));
            Matrix<double>& part = parts[static_cast<std::size_t>(share)] =
                Matrix<double>::zeros(units, blocks * kBlock);
            sums_of_blocks(patterns, tables_of_patterns(patterns, ConstMatrixView<T>(omega), from, to), from, to, 0,
                           patterns.segments * blocks, part);
        }
    });
    add_parts(parts, S);
    control.checkpoint(1.0);
}

namespace {

// counts (vectors × 16): bits of a group that differ from so many units' weights, of `units` to a machine.
void count_group(const Patterns& patterns, Index group, Index vectors, Index units, const std::uint32_t* weights,
                 std::uint32_t* counts) {
    const auto differing = simd::table().bits.differing;
    const Index words = patterns.words();
    const std::uint32_t* const lines = patterns.data + group * patterns.group_words();
    std::fill(counts, counts + vectors * kGroup, 0u);
    for (Index c = 0; c < words; c += kCountWords)
        for (Index v = 0; v < vectors; ++v)
            differing(std::min(kCountWords, words - c), lines + (patterns.segment_of(v % units) * words + c) * kGroup,
                      weights + v * words + c, counts + v * kGroup);
}

// How many of a group's patterns a machine gets wrong, from the counts of its units.
Index wrong_of_group(Index n, Index patterns, Index units, const std::uint32_t* counts, const std::int8_t* labels,
                     bool parity) {
    std::int32_t total[kGroup] = {};
    for (Index k = 0; k < units; ++k) {
        for (Index row = 0; row < kGroup; ++row) {
            const std::int32_t minus = 2 * static_cast<Index>(counts[k * kGroup + row]) > n;
            total[row] += parity ? minus : 1 - 2 * minus;
        }
    }
    Index wrong = 0;
    for (Index row = 0; row < patterns; ++row) {
        const bool plus = parity ? total[row] % 2 == 0 : total[row] > 0;
        wrong += plus != (labels[row] > 0);
    }
    return wrong;
}

}  // namespace

void binary_fields(const Patterns& patterns, Index units, const std::uint32_t* weights, std::int32_t* omega,
                   RunControl& control) {
    check_units(patterns, units, patterns.inputs);
    const double edges = static_cast<double>(kGroup * patterns.inputs * units) / 4;  // counting is faster than adding
    pieces(patterns.groups(), edges, 1, control, [&](Index from, Index to) {
        parallel_ranges(to - from, grain_of(edges), [&](Index first, Index last) {
            std::vector<std::uint32_t> counts(static_cast<std::size_t>(units * kGroup));
            for (Index group = from + first; group < from + last; ++group) {
                count_group(patterns, group, units, units, weights, counts.data());
                const Index begin = group * kGroup, end = std::min(patterns.patterns, begin + kGroup);
                for (Index mu = begin; mu < end; ++mu)
                    for (Index k = 0; k < units; ++k)
                        omega[mu * units + k] = static_cast<std::int32_t>(
                            patterns.inputs - 2 * Index{counts[static_cast<std::size_t>(k * kGroup + mu - begin)]});
            }
        });
    });
}

void binary_errors(const Patterns& patterns, Index machines, Index units, const std::uint32_t* weights,
                   const std::int8_t* labels, bool parity, std::int64_t* errors, RunControl& control) {
    check_units(patterns, units, patterns.inputs);
    const Index together = std::max<Index>(1, kCountVectors / units), threads = max_threads();
    std::vector<std::int64_t> wrong(static_cast<std::size_t>(threads * machines));
    const double edges = static_cast<double>(kGroup * patterns.inputs * units * machines) / 4;
    pieces(patterns.groups(), edges, 1, control, [&](Index from, Index to) {
        const Index cut = parallel_pieces(to - from, grain_of(edges));
        parallel_pieces_of(to - from, cut, [&](Index piece, Index first, Index last) {
            std::vector<std::uint32_t> counts(static_cast<std::size_t>(together * units * kGroup));
            for (Index group = from + first; group < from + last; ++group) {
                const Index begin = group * kGroup, count = std::min(patterns.patterns - begin, kGroup);
                for (Index b = 0; b < machines; b += together) {
                    const Index some = std::min(together, machines - b);
                    count_group(patterns, group, some * units, units, weights + b * units * patterns.words(),
                                counts.data());
                    for (Index a = 0; a < some; ++a)
                        wrong[static_cast<std::size_t>(piece * machines + b + a)] += wrong_of_group(
                            patterns.inputs, count, units, counts.data() + a * units * kGroup, labels + begin, parity);
                }
            }
        });
    });
    std::fill(errors, errors + machines, std::int64_t{0});
    for (Index piece = 0; piece < threads; ++piece)
        for (Index b = 0; b < machines; ++b) errors[b] += wrong[static_cast<std::size_t>(piece * machines + b)];
}

template void fields<float>(const Patterns&, ConstMatrixView<float>, MatrixView<float>, RunControl&, const WithFields&);
template void fields<double>(const Patterns&, ConstMatrixView<double>, MatrixView<double>, RunControl&,
                             const WithFields&);
template void fields_then_sums<float>(const Patterns&, ConstMatrixView<float>, MatrixView<float>, MatrixView<float>,
                                      RunControl&, const WithFields&);
template void fields_then_sums<double>(const Patterns&, ConstMatrixView<double>, MatrixView<double>, MatrixView<double>,
                                       RunControl&, const WithFields&);
template void sums<float>(const Patterns&, ConstMatrixView<float>, MatrixView<float>, RunControl&);
template void sums<double>(const Patterns&, ConstMatrixView<double>, MatrixView<double>, RunControl&);

}  // namespace flatcore::wfm
