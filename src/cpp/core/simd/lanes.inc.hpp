// Vectors of FLATCORE_VECTOR_BYTES bytes, and loads that convert stored entries on their way into a register.
// Included inside a set's own namespace.

typedef float Float __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef double Double __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef float FloatAnywhere __attribute__((vector_size(FLATCORE_VECTOR_BYTES), aligned(4), may_alias));
typedef double DoubleAnywhere __attribute__((vector_size(FLATCORE_VECTOR_BYTES), aligned(8), may_alias));
typedef float HalfFloat __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 2)));
typedef float HalfFloatAnywhere __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 2), aligned(4), may_alias));
typedef std::uint32_t Bits __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef std::uint32_t HalfBits __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 2)));
typedef std::uint16_t Shorts __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef std::uint16_t HalfShorts __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 4), aligned(2), may_alias));

typedef float FourFloats __attribute__((vector_size(16), aligned(4), may_alias));
typedef double FourDoubles __attribute__((vector_size(32), aligned(8), may_alias));

// Keeps a value in a register, where a compiler would load it again for every use.
#if FLATCORE_VECTOR_BYTES == 64
#define FLATCORE_IN_REGISTER(value) __asm__("" : "+v"(value))
#elif defined(__SSE2__)
#define FLATCORE_IN_REGISTER(value) __asm__("" : "+x"(value))
#else
#define FLATCORE_IN_REGISTER(value)
#endif

struct F16 {
    std::uint16_t bits;
};
struct BF16 {
    std::uint16_t bits;
};

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
    using Vector = Float;
    using Anywhere = FloatAnywhere;
    static constexpr int count = FLATCORE_VECTOR_BYTES / 4;
};
template <>
struct Lanes<double> {
    using Vector = Double;
    using Anywhere = DoubleAnywhere;
    static constexpr int count = FLATCORE_VECTOR_BYTES / 8;
};

// Finite half-precision numbers, by exponent arithmetic: exact, subnormals included.
template <class F, class B, class S>
inline F widened_f16(S shorts) {
    const B bits = __builtin_convertvector(shorts, B);
    const B magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
    const F value = (F)magnitude * 0x1p112f;
    return (F)((B)value | sign);
}
template <class F, class B, class S>
inline F widened_bf16(S shorts) {
    return (F)(__builtin_convertvector(shorts, B) << 16);
}

template <class T>
inline typename Lanes<T>::Vector load(const T* at) {
    return *reinterpret_cast<const typename Lanes<T>::Anywhere*>(at);
}
template <class T>
inline void store(T* at, typename Lanes<T>::Vector value) {
    *reinterpret_cast<typename Lanes<T>::Anywhere*>(at) = value;
}

// A vector in double.
struct Widened {
    Double low, high;
};
inline Widened widened(Float x) {
    const HalfFloat low = *reinterpret_cast<const HalfFloat*>(&x), high = *(reinterpret_cast<const HalfFloat*>(&x) + 1);
    return {__builtin_convertvector(low, Double), __builtin_convertvector(high, Double)};
}

// Lanes<T>::count consecutive stored entries as T.
template <class T>
struct Read;
template <>
struct Read<float> {
    static Float from(const float* at) { return load(at); }
    static Float from(const F16* at) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
        return (Float)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__F16C__)
        return (Float)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
#else
        return widened_f16<Float, Bits>(*reinterpret_cast<const Shorts*>(at));
#endif
    }
    static Float from(const BF16* at) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
        const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        return (Float)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, halves), 16);
#else
        return widened_bf16<Float, Bits>(*reinterpret_cast<const Shorts*>(at));
#endif
    }
};
template <>
struct Read<double> {
    static Double from(const double* at) { return load(at); }
    static Double from(const float* at) {
        return __builtin_convertvector(*reinterpret_cast<const HalfFloatAnywhere*>(at), Double);
    }
    static Double from(const F16* at) {
        return __builtin_convertvector((widened_f16<HalfFloat, HalfBits>(*reinterpret_cast<const HalfShorts*>(at))),
                                       Double);
    }
    static Double from(const BF16* at) {
        return __builtin_convertvector((widened_bf16<HalfFloat, HalfBits>(*reinterpret_cast<const HalfShorts*>(at))),
                                       Double);
    }
};

// A store that does not pass through the caches, where the set has one; `at` is aligned to the vector.
inline void store_past_caches(float* at, Float value) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    _mm512_stream_ps(at, (__m512)value);
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX__)
    _mm256_stream_ps(at, (__m256)value);
#elif defined(__SSE2__)
    _mm_stream_ps(at, (__m128)value);
#else
    store(at, value);
#endif
}
inline void store_past_caches(double* at, Double value) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    _mm512_stream_pd(at, (__m512d)value);
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX__)
    _mm256_stream_pd(at, (__m256d)value);
#elif defined(__SSE2__)
    _mm_stream_pd(at, (__m128d)value);
#else
    store(at, value);
#endif
}
inline void finish_stores() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// out: the sums of the lanes of four vectors, by steps that halve the lanes and join the vectors. Lanes half a vector
// apart, then a quarter, and so on: rotating the lanes of a vector does not change its sum in any bit.
#if FLATCORE_VECTOR_BYTES == 64
inline void lane_sums(Float a, Float b, Float c, Float d, float* out) {
    const Float ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                     __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Float cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                     __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    Float all = __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    *reinterpret_cast<FourFloats*>(out) = __builtin_shufflevector(all, all, 0, 4, 8, 12);
}
inline void lane_sums(Double a, Double b, Double c, Double d, double* out) {
    const Double ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                      __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    const Double cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                      __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    const Double all = __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) +
                       __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
    *reinterpret_cast<FourDoubles*>(out) =
        __builtin_shufflevector(all, all, 0, 2, 4, 6) + __builtin_shufflevector(all, all, 1, 3, 5, 7);
}
#elif FLATCORE_VECTOR_BYTES == 32
inline void lane_sums(Float a, Float b, Float c, Float d, float* out) {
    const Float ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                     __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    const Float cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                     __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
    const Float all = __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) +
                      __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
    *reinterpret_cast<FourFloats*>(out) =
        __builtin_shufflevector(all, all, 0, 2, 4, 6) + __builtin_shufflevector(all, all, 1, 3, 5, 7);
}
inline void lane_sums(Double a, Double b, Double c, Double d, double* out) {
    const Double ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
    const Double cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
    *reinterpret_cast<FourDoubles*>(out) =
        __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}
#else
template <class T, class V>
inline void lane_sums_plain(V a, V b, V c, V d, T* out) {
    for (int half = Lanes<T>::count / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) {
            a[lane] += a[lane + half];
            b[lane] += b[lane + half];
            c[lane] += c[lane + half];
            d[lane] += d[lane + half];
        }
    out[0] = a[0];
    out[1] = b[0];
    out[2] = c[0];
    out[3] = d[0];
}
inline void lane_sums(Float a, Float b, Float c, Float d, float* out) { lane_sums_plain<float>(a, b, c, d, out); }
inline void lane_sums(Double a, Double b, Double c, Double d, double* out) { lane_sums_plain<double>(a, b, c, d, out); }
#endif
