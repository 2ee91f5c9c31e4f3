// The kernels of committee.hpp. Included inside a set's own namespace, after lanes.inc.hpp and small_chain.inc.hpp.

typedef std::uint64_t Quads __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef std::uint32_t BitsAnywhere __attribute__((vector_size(FLATCORE_VECTOR_BYTES), aligned(4), may_alias));
typedef std::uint64_t Quad __attribute__((aligned(4), may_alias));

inline Bits load_bits(const std::uint32_t* at) { return *reinterpret_cast<const BitsAnywhere*>(at); }
inline void store_bits(std::uint32_t* at, Bits value) { *reinterpret_cast<BitsAnywhere*>(at) = value; }

// -- lookups
// ------------------------------------------------------------------------------------------------------------

// How a set looks up. A line's 16 words are cut into `parts` pieces of indices, one lane each; an index is used up from
// its low bits. One `nibble` piece holds indices of 64-bit words' nibbles, the lowest bits of each lane.
template <class T>
struct Lookup {
    static constexpr bool vector = false;
    static constexpr int bits = 4;
};

#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
template <>
struct Lookup<float> {
    static constexpr bool vector = true;
    static constexpr int bits = 4, parts = 1, nibbles = 1;
    using Indices = Bits;
    static Bits part(const std::uint32_t* line, int) { return load_bits(line); }
    static Float of(Bits index, const float* table) {
        return (Float)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)index, (__m512)load(table));
    }
    // Nibbles 0, 8, 1, 9, …
    static Bits nibble(Quads words, int) { return (Bits)(words >> Quads{0, 4, 8, 12, 16, 20, 24, 28}); }
    static Float of_four(Bits index, const float* table) { return of(index, table); }
};
template <>
struct Lookup<double> {
    static constexpr bool vector = true;
    static constexpr int bits = 4, parts = 2, nibbles = 2;
    using Indices = Quads;
    // Even patterns, then odd ones.
    static Quads part(const std::uint32_t* line, int p) { return (Quads)load_bits(line) >> (32 * p); }
    static Double of(Quads index, const double* table) {
        return (Double)_mm512_permutex2var_pd((__m512d)load(table), (__m512i)index, (__m512d)load(table + 8));
    }
    static Quads nibble(Quads words, int p) { return words >> (Quads{0, 4, 8, 12, 16, 20, 24, 28} + 32 * p); }
    static Double of_four(Quads index, const double* table) { return of(index, table); }
};
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX2__)
template <>
struct Lookup<float> {
    static constexpr bool vector = true;
    static constexpr int bits = 3, parts = 2, nibbles = 2;
    using Indices = Bits;
    static Bits part(const std::uint32_t* line, int p) { return load_bits(line + 8 * p); }
    static Float of(Bits index, const float* table) {
        return (Float)_mm256_permutevar8x32_ps((__m256)load(table), (__m256i)index);
    }
    static Bits nibble(Quads words, int p) { return (Bits)(words >> (Quads{0, 4, 8, 12} + 16 * p)); }
    // Three patterns, then the fourth, of whose table the lower two bits do not matter.
    static Float of_four(Bits index, const float* table) { return of(index, table) + of(index >> 1, table + 8); }
};
#endif

template <class T>
constexpr int kEntries = 1 << Lookup<T>::bits;
template <class T>
constexpr int kTables = (32 + Lookup<T>::bits - 1) / Lookup<T>::bits;

// table[e] = Σ_j ±x_j, j < count, + where e has bit j.
template <class T>
struct TableSigns {
    T of[4][16] = {};
    constexpr TableSigns() {
        for (int j = 0; j < 4; ++j)
            for (int e = 0; e < 16; ++e) of[j][e] = (e >> j) % 2 != 0 ? T(1) : T(-1);
    }
};
template <class T>
constexpr TableSigns<T> kTableSigns;

template <class T, int bits>
inline void tabulate(Index count, const T* x, Index stride, T* table) {
    T terms[4] = {};
    if (count >= bits)
        for (int j = 0; j < bits; ++j) terms[j] = x[j * stride];
    else
        for (Index j = 0; j < count; ++j) terms[j] = x[j * stride];
#pragma GCC unroll 4
    for (int e = 0; e < 1 << bits; e += Lanes<T>::count) {
        typename Lanes<T>::Vector sum = terms[0] * load(kTableSigns<T>.of[0] + e);
#pragma GCC unroll 4
        for (int j = 1; j < bits; ++j) sum += terms[j] * load(kTableSigns<T>.of[j] + e);
        store(table + e, sum);
    }
}

template <class T>
void tabulate_inputs(Index inputs, const T* m, Index stride, T* tables) {
    constexpr int bits = Lookup<T>::bits;
    for (Index word = 0; word < inputs; word += 32) {
        const Index end = inputs - word < 32 ? inputs - word : 32;
        for (Index i = 0; i < 32; i += bits, tables += kEntries<T>) {
            tabulate<T, bits>(end - i < bits ? end - i : bits, m + (word + i) * stride, stride, tables);
        }
    }
}

template <class T>
void tabulate_patterns(Index patterns, const T* g, Index stride, T* tables) {
    for (Index mu = 0; mu < patterns; mu += 16) {
        for (Index first = mu; first < mu + 16; first += 4, tables += kPatternTable) {
            const T* const four = g + first * stride;
            const Index left = patterns - first;
            if constexpr (Lookup<T>::bits == 3) {
                const T last[3] = {0, 0, left > 3 ? four[3 * stride] : T(0)};
                tabulate<T, 3>(left < 3 ? left : 3, four, stride, tables);
                tabulate<T, 3>(3, last, 1, tables + 8);
            } else {
                tabulate<T, 4>(left, four, stride, tables);
            }
        }
    }
}

// -- fields
// -------------------------------------------------------------------------------------------------------------

// Adds the sums of 16 patterns, in their order, to ω.
inline void add_widened(Float sum, double* at) {
    constexpr int half = Lanes<double>::count;
    const Widened wide = widened(sum);
    store(at, load(at) + wide.low);
    store(at + half, load(at + half) + wide.high);
}
inline void add_widened(Double sum, double* at) { store(at, load(at) + sum); }

template <class V>
inline void add_patterns(const V* sums, double* omega) {
    constexpr int lanes = sizeof(V) / sizeof(sums[0][0]);
#if FLATCORE_VECTOR_BYTES == 64
    if constexpr (lanes == 8) {
        add_widened(__builtin_shufflevector(sums[0], sums[1], 0, 8, 1, 9, 2, 10, 3, 11), omega);
        add_widened(__builtin_shufflevector(sums[0], sums[1], 4, 12, 5, 13, 6, 14, 7, 15), omega + 8);
        return;
    }
#endif
    for (int at = 0; at < kLine; at += lanes) add_widened(sums[at / lanes], omega + at);
}

// The lines of one word: `count` lookups in each group.
template <class T, int G>
inline void add_word(Index stride, int count, const std::uint32_t* lines, const T* tables,
                     typename Lanes<T>::Vector (*sums)[Lookup<T>::parts]) {
    using L = Lookup<T>;
    typename L::Indices index[G][L::parts];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 2
        for (int p = 0; p < L::parts; ++p) index[g][p] = L::part(lines + g * stride, p);
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) {
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
#pragma GCC unroll 2
            for (int p = 0; p < L::parts; ++p) {
                sums[g][p] += L::of(index[g][p], tables + t * kEntries<T>);
                index[g][p] = index[g][p] >> L::bits;
            }
        }
    }
}

template <class T, int G>
void fields_tile(Index stride, Index inputs, const std::uint32_t* lines, const T* tables, double* omega) {
    using L = Lookup<T>;
    typename Lanes<T>::Vector sums[G][L::parts] = {};
    const Index whole = inputs / 32;
    const int left = static_cast<int>(inputs % 32);
    for (Index c = 0; c < whole; ++c) {
        for (int g = 0; g < G; ++g) __builtin_prefetch(lines + g * stride + inputs / 2, 0, 2);
        add_word<T, G>(stride, kTables<T>, lines, tables, sums);
        lines += kLine;
        tables += kTables<T> * kEntries<T>;
    }
    if (left > 0) add_word<T, G>(stride, (left + L::bits - 1) / L::bits, lines, tables, sums);
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) add_patterns(sums[g], omega + g * kLine);
}

// A pattern at a time, four sums in flight.
template <class T>
void fields_plain(Index inputs, const std::uint32_t* lines, const T* tables, double* omega) {
    for (Index row = 0; row < kLine; ++row) {
        T sums[4] = {};
        const T* table = tables;
        for (Index c = 0; c * 32 < inputs; ++c, table += 8 * 16) {
            const std::uint32_t word = lines[c * kLine + row];
#pragma GCC unroll 8
            for (int t = 0; t < 8; ++t) sums[t % 4] += table[t * 16 + ((word >> (4 * t)) & 15u)];
        }
        omega[row] += static_cast<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
}

template <class T>
void committee_fields(Index groups, Index stride, Index inputs, const std::uint32_t* lines, const T* tables,
                      double* omega) {
    Index g = 0;
    if constexpr (Lookup<T>::vector) {
        constexpr int G = FLATCORE_VECTOR_BYTES == 64 ? 4 : 2;
        for (; g + G <= groups; g += G)
            fields_tile<T, G>(stride, inputs, lines + g * stride, tables, omega + g * kLine);
        if constexpr (G == 4)
            for (; g + 2 <= groups; g += 2)
                fields_tile<T, 2>(stride, inputs, lines + g * stride, tables, omega + g * kLine);
        for (; g < groups; ++g) fields_tile<T, 1>(stride, inputs, lines + g * stride, tables, omega + g * kLine);
    } else {
        for (; g < groups; ++g) fields_plain<T>(inputs, lines + g * stride, tables, omega + g * kLine);
    }
}

// -- bits of four patterns
// ----------------------------------------------------------------------------------------------------------

// Bits of a where the mask is set, else of b.
inline Bits merged(Bits mask, Bits a, Bits b) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (Bits)_mm512_ternarylogic_epi32((__m512i)mask, (__m512i)a, (__m512i)b, 0xca);
#else
    return (a & mask) | (b & ~mask);
#endif
}

// Exchanges bits h apart: those of a whose number has bit h against those of b that have not.
template <int h>
inline void exchange_bits(Bits& a, Bits& b) {
    const Bits low = (h == 1 ? 0x55555555u : 0x33333333u) - Bits{};
    const Bits first = merged(low, a, b << h);
    b = merged(low, a >> h, b);
    a = first;
}

inline void committee_turn(Index groups, Index stride, Index words, const std::uint32_t* lines, std::uint32_t* turned) {
    constexpr int lanes = FLATCORE_VECTOR_BYTES / 4;
    using Lane = typename FirstNumbers<lanes>::Type;
    for (Index g = 0; g < groups; ++g, lines += stride, turned += kTurned) {
        for (Index c = 0; c < kTurnedWords; ++c) __builtin_prefetch(lines + kTurned + c * kLine);  // the next words
#pragma GCC unroll 4
        for (Index at = 0; at < kLine; at += lanes) {
            Bits rows[4];
#pragma GCC unroll 4
            for (int c = 0; c < 4; ++c) rows[c] = c < words ? load_bits(lines + c * kLine + at) : Bits{};
            exchange<2>(rows[0], rows[2], Lane{});
            exchange<2>(rows[1], rows[3], Lane{});
            exchange<1>(rows[0], rows[1], Lane{});
            exchange<1>(rows[2], rows[3], Lane{});
            exchange_bits<1>(rows[0], rows[1]);
            exchange_bits<1>(rows[2], rows[3]);
            exchange_bits<2>(rows[0], rows[2]);
            exchange_bits<2>(rows[1], rows[3]);
#pragma GCC unroll 4
            for (int q = 0; q < 4; ++q) store_bits(turned + q * kLine + at, rows[q]);
        }
    }
}

// -- sums
// ---------------------------------------------------------------------------------------------------------------

// Adds sums of 64 inputs, the input 4n + q being nibble n of the words q, to S. Nibbles n and n + 8 lie side by side
// where a lane has 32 bits.
template <class T>
inline void add_inputs(const typename Lanes<T>::Vector (*sums)[Lookup<T>::nibbles], double* S) {
    constexpr bool paired = sizeof(T) == 4;
    alignas(64) T at[kHalf];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q)
#pragma GCC unroll 2
        for (int p = 0; p < Lookup<T>::nibbles; ++p) store(at + 16 * q + p * Lanes<T>::count, sums[q][p]);
#pragma GCC unroll 16
    for (int n = 0; n < 16; ++n)
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) S[4 * n + q] += static_cast<double>(at[16 * q + (paired ? n % 8 * 2 + n / 8 : n)]);
}

template <class T>
void committee_sums(Index groups, const std::uint32_t* turned, const T* tables, double* S) {
    if constexpr (Lookup<T>::vector) {
        using L = Lookup<T>;
        typename Lanes<T>::Vector sums[4][L::nibbles] = {};
        for (Index g = 0; g < groups; ++g, turned += kTurned, tables += kGroupTables) {
#pragma GCC unroll 4
            for (int four = 0; four < 4; ++four) {
#pragma GCC unroll 4
                for (int q = 0; q < 4; ++q) {
                    const Quads words = *reinterpret_cast<const Quad*>(turned + q * kLine + four * 4) - Quads{};
#pragma GCC unroll 2
                    for (int p = 0; p < L::nibbles; ++p)
                        sums[q][p] += L::of_four(L::nibble(words, p), tables + four * kPatternTable);
                }
            }
        }
        add_inputs<T>(sums, S);
    } else {
        for (int q = 0; q < 4; ++q) {
            T sums[16] = {};
            for (Index g = 0; g < groups; ++g) {
                for (int four = 0; four < 4; ++four) {
                    const std::uint64_t word =
                        *reinterpret_cast<const Quad*>(turned + g * kTurned + q * kLine + four * 4);
                    const T* const table = tables + g * kGroupTables + four * kPatternTable;
#pragma GCC unroll 16
                    for (int n = 0; n < 16; ++n) sums[n] += table[(word >> (4 * n)) & 15u];
                }
            }
            for (int n = 0; n < 16; ++n) S[4 * n + q] += static_cast<double>(sums[n]);
        }
    }
}

// -- differing bits
// -----------------------------------------------------------------------------------------------------------

// a + b + c of single bits: their sum returned in a, the carry in c.
inline Bits carry_of(Bits& a, Bits b, Bits c) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    const Bits carry = (Bits)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)c, 0xe8);
    a = (Bits)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)c, 0x96);
#else
    const Bits differ = a ^ b, carry = (a & b) | (c & differ);
    a = differ ^ c;
#endif
    return carry;
}

// Counts of the bits of every byte.
inline Bits byte_counts(Bits x) {
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    return (x + (x >> 4)) & 0x0f0f0f0fu;
}
// The sum of a word's four bytes, which may pass 255.
inline Bits word_counts(Bits bytes) {
    const Bits pairs = (bytes & 0x00ff00ffu) + ((bytes >> 8) & 0x00ff00ffu);
    return (pairs + (pairs >> 16)) & 0xffffu;
}

// Harley and Seal's counters: ones, twos and fours are kept as bits, eights counted as they come.
inline void committee_differing(Index words, const std::uint32_t* lines, const std::uint32_t* weights,
                                std::uint32_t* counts) {
    constexpr int lanes = FLATCORE_VECTOR_BYTES / 4;
    constexpr Index most = 8 * 31;  // a byte counts to 255
    for (Index at = 0; at < kLine; at += lanes) {
        Bits total = load_bits(counts + at), ones = {}, twos = {}, fours = {};
        const auto differing = [&](Index c) { return load_bits(lines + c * kLine + at) ^ (weights[c] - Bits{}); };
        Index c = 0;
        while (c + 8 <= words) {
            const Index stop = words - c < most ? words : c + most;
            Bits bytes = {};
            for (; c + 8 <= stop; c += 8) {
                const Bits two_a = carry_of(ones, differing(c), differing(c + 1));
                const Bits two_b = carry_of(ones, differing(c + 2), differing(c + 3));
                const Bits four_a = carry_of(twos, two_a, two_b);
                const Bits two_c = carry_of(ones, differing(c + 4), differing(c + 5));
                const Bits two_d = carry_of(ones, differing(c + 6), differing(c + 7));
                const Bits four_b = carry_of(twos, two_c, two_d);
                bytes += byte_counts(carry_of(fours, four_a, four_b));
            }
            total += 8u * word_counts(bytes);
        }
        Bits bytes = 4u * byte_counts(fours) + 2u * byte_counts(twos) + byte_counts(ones);
        for (; c < words; ++c) bytes += byte_counts(differing(c));
        store_bits(counts + at, total + word_counts(bytes));
    }
}

template <class T>
constexpr CommitteeKernels<T> committee_kernels() {
    return {kTables<T> * kEntries<T>, tabulate_inputs<T>, committee_fields<T>, tabulate_patterns<T>, committee_sums<T>};
}
constexpr BitKernels bit_kernels() { return {committee_turn, committee_differing}; }
