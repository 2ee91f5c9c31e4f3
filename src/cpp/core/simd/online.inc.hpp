// The kernels of online.hpp. Included inside a set's own namespace, after lanes.inc.hpp.

typedef std::uint64_t LongBits __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef std::int32_t Ints __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef std::int32_t IntsAnywhere __attribute__((vector_size(FLATCORE_VECTOR_BYTES), aligned(4), may_alias));

constexpr Index kWordBits = 32;

// Bit l of lane l.
template <class V, class E>
inline V lane_bits() {
    V out = {};
#pragma GCC unroll 16
    for (unsigned l = 0; l < sizeof(V) / sizeof(E); ++l) out[l] = E(1) << l;
    return out;
}

// A word's entries V·L … with the sign of their bits; the word in every lane.
template <int first>
inline Double signed_by(LongBits word, Double w) {
    const LongBits bits = lane_bits<LongBits, std::uint64_t>() << first, sign = LongBits{} + (std::uint64_t{1} << 63);
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)  // one test, where compilers make two operations of it
    const __mmask8 minus = _mm512_testn_epi64_mask((__m512i)word, (__m512i)bits);
    return (Double)_mm512_mask_xor_epi64((__m512i)w, minus, (__m512i)w, (__m512i)sign);
#else
    return (word & bits) == 0 ? (Double)((LongBits)w ^ sign) : w;
#endif
}

// f(v, w) for the vectors v = 0 … of one word.
template <int first, class F>
inline void each_vector(LongBits word, const F& f) {
    if constexpr (first < static_cast<int>(kWordBits)) {
        f(first / Lanes<double>::count, [&](Double w) { return signed_by<first>(word, w); });
        each_vector<first + Lanes<double>::count>(word, f);
    }
}

inline Index online_differing(Index words, const std::uint32_t* a, const std::uint32_t* b) {
    Index total = 0, c = 0;
    for (; c + 2 <= words; c += 2) {
        std::uint64_t x, y;
        __builtin_memcpy(&x, a + c, 8);
        __builtin_memcpy(&y, b + c, 8);
        total += __builtin_popcountll(x ^ y);
    }
    if (c < words) total += __builtin_popcount(a[c] ^ b[c]);
    return total;
}

inline double online_dot(Index words, const std::uint32_t* bits, const double* w) {
    constexpr int L = Lanes<double>::count, V = static_cast<int>(kWordBits) / L;
    constexpr int S = V < 4 ? V : 4;  // sums in flight
    Double sum[S] = {};
    for (Index c = 0; c < words; ++c) {
        const double* const at = w + c * kWordBits;
        each_vector<0>(LongBits{} + bits[c], [&](int v, const auto& sign) { sum[v % S] += sign(load(at + v * L)); });
    }
    Double total = sum[0];
#pragma GCC unroll 4
    for (int s = 1; s < S; ++s) total += sum[s];
    return lane_total(total);
}

inline void online_add(Index n, const std::uint32_t* bits, double c, double* w) {
    const Index words = (n + kWordBits - 1) / kWordBits;
    const Double step = Double{} + c;
    for (Index word = 0; word < words; ++word) {
        double* const row = w + word * kWordBits;
        each_vector<0>(LongBits{} + bits[word], [&](int v, const auto& sign) {
            double* const at = row + v * Lanes<double>::count;
            store(at, load(at) + sign(step));
        });
    }
    for (Index i = n; i < words * kWordBits; ++i) w[i] = 0.0;
}

// Bit l: lane l is positive.
inline std::uint32_t positive(Ints H) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return _mm512_cmpgt_epi32_mask((__m512i)H, _mm512_setzero_si512());
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX2__)
    return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)(H > 0)));
#elif defined(__SSE2__)
    return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)(H > 0)));
#else
    std::uint32_t out = 0;
    for (unsigned l = 0; l < sizeof(Ints) / 4; ++l) out |= std::uint32_t{H[l] > 0} << l;
    return out;
#endif
}

inline void online_turn(Index n, const std::uint32_t* bits, std::int32_t step, std::int32_t* H, std::uint32_t* signs) {
    constexpr int L = FLATCORE_VECTOR_BYTES / 4, V = static_cast<int>(kWordBits) / L;
    const Index words = (n + kWordBits - 1) / kWordBits;
    const Bits lanes = lane_bits<Bits, std::uint32_t>();
    const Ints plus = Ints{} + step, minus = Ints{} - step;
    for (Index c = 0; c < words; ++c) {
        std::uint32_t out = 0;
        const Bits word = Bits{} + bits[c];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            std::int32_t* const at = H + c * kWordBits + v * L;
            const Ints off = (Ints)((word & (lanes << static_cast<std::uint32_t>(v * L))) == 0);
            const Ints h = *reinterpret_cast<const IntsAnywhere*>(at) + (off ? minus : plus);
            *reinterpret_cast<IntsAnywhere*>(at) = h;
            out |= positive(h) << (v * L);
        }
        signs[c] = out;
    }
    if (n % kWordBits == 0) return;
    for (Index i = n; i < words * kWordBits; ++i) H[i] = 0;
    signs[words - 1] &= (1u << n % kWordBits) - 1;
}

constexpr OnlineKernels online_kernels() { return {online_differing, online_dot, online_add, online_turn}; }
