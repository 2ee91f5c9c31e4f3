// The functions of functions.hpp on vectors. Included inside a set's own namespace, after lanes.inc.hpp.

typedef std::int64_t Longs __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));
typedef std::uint64_t UnsignedLongs __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));

inline Double all(double x) { return Double{} + x; }
inline Double least(Double x, Double y) { return x < y ? x : y; }
inline Double most(Double x, Double y) { return x > y ? x : y; }
inline Double modulus(Double x) { return (Double)((Longs)x & 0x7fffffffffffffffLL); }

inline bool any(Longs mask) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512DQ__)
    return _mm512_movepi64_mask((__m512i)mask) != 0;
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX__)
    return _mm256_movemask_pd((__m256d)mask) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_pd((__m128d)mask) != 0;
#else
    std::int64_t bits = 0;
    for (int lane = 0; lane < Lanes<double>::count; ++lane) bits |= mask[lane];
    return bits != 0;
#endif
}

inline Double square_root(Double x) {
#if FLATCORE_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (Double)_mm512_maskz_sqrt_pd(0xff, (__m512d)x);
#elif FLATCORE_VECTOR_BYTES == 32 && defined(__AVX__)
    return (Double)_mm256_sqrt_pd((__m256d)x);
#elif defined(__SSE2__)
    return (Double)_mm_sqrt_pd((__m128d)x);
#else
    for (int lane = 0; lane < Lanes<double>::count; ++lane) x[lane] = __builtin_sqrt(x[lane]);
    return x;
#endif
}

// x = k ln 2 + r, |r| <= ln 2 / 2: eˣ = 2ᵏ Σ rʲ/j!. The round number k is left in the low bits of x/ln 2 + 1.5·2⁵².
inline Double exp_of(Double x) {
    x = most(least(x, all(709.0)), all(-708.0));
    const Double shifted = x * 1.4426950408889634 + 0x1.8p52, k = shifted - 0x1.8p52;
    const Double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
    Double sum = all(1.6059043836821613e-10);
    sum = sum * r + 2.08767569878681e-09;
    sum = sum * r + 2.505210838544172e-08;
    sum = sum * r + 2.755731922398589e-07;
    sum = sum * r + 2.7557319223985893e-06;
    sum = sum * r + 2.48015873015873e-05;
    sum = sum * r + 0.0001984126984126984;
    sum = sum * r + 0.001388888888888889;
    sum = sum * r + 0.008333333333333333;
    sum = sum * r + 0.041666666666666664;
    sum = sum * r + 0.16666666666666666;
    sum = sum * r + 0.5;
    sum = sum * r + 1.0;
    sum = sum * r + 1.0;
    return sum * (Double)(((Longs)shifted << 52) + (1023LL << 52));
}

// x = 2ᵉ m, m in [√½, √2), f = m − 1, s = f/(2 + f): log m = 2 atanh s, the series economised as in fdlibm.
inline Double log_of(Double x) {
    const Longs past = (Longs)x - 0x3fe6a09e667f3bcdLL;
    const Longs power = past & (Longs)((Longs{} + 0xfff) << 52);
    const Double m = (Double)((Longs)x - power);
    const UnsignedLongs number = (UnsignedLongs)(past + (1024LL << 52)) >> 52;
    const Double e = (Double)(number | 0x4330000000000000ULL) - (0x1p52 + 1024.0);
    const Double f = m - 1.0, s = f / (f + 2.0), z = s * s;
    Double sum = all(1.479819860511658591e-01);
    sum = sum * z + 1.531383769920937332e-01;
    sum = sum * z + 1.818357216161805012e-01;
    sum = sum * z + 2.222219843214978396e-01;
    sum = sum * z + 2.857142874366239149e-01;
    sum = sum * z + 3.999999999940941908e-01;
    sum = sum * z + 6.666666666666735130e-01;
    const Double half = 0.5 * f * f;
    return e * 6.93147180369123816490e-01 - ((half - (s * (half + sum * z) + e * 1.90821492927058770002e-10)) - f);
}

inline Double erfcx_of(Double x) {
    static constexpr double c = 3.75;
    static constexpr double a[] = {
        1.2375126308378275,     -0.14024059858554525,    0.0035854154854790257,   0.08227673848999506,
        -0.10880393014244462,   0.09230432116428125,     -0.05869339857664934,    0.02836227737211114,
        -0.009746579683265262,  0.0017556261651970652,   0.000293714378044958,    -0.00029015535246077655,
        5.164652974177416e-05,  2.2387565714911816e-05,  -1.1438048033346894e-05, -9.792625707303523e-07,
        1.7419821586224816e-06, -5.084465378687302e-08,  -2.4857126248016745e-07, 1.879082322370048e-08,
        3.197926671666804e-08,  -1.9551358868985616e-09, -2.623107347133476e-09};
    const Double above = x + c, slope = 2.0 * x + 1.0, both = 1.0 / (above * slope);
    const Double t = (x - c) * (slope * both);
    const Double t2 = t * t;  // even and odd powers side by side: half the latency
    Double even = all(a[22]), odd = all(a[21]);
#pragma GCC unroll 11
    for (int k = 20; k >= 2; k -= 2) {
        even = even * t2 + a[k];
        odd = odd * t2 + a[k - 1];
    }
    return (even * t2 + (odd * t + a[0])) * (above * both);
}

// The same in single precision, for sweeps whose state is: exp to 1 ulp on [−87, 88], erfcx to 3 ulp.
typedef std::int32_t Ints __attribute__((vector_size(FLATCORE_VECTOR_BYTES)));

inline Float modulus(Float x) { return (Float)((Ints)x & 0x7fffffff); }

inline Float exp_of(Float x) {
    x = x < 88.0f ? x : Float{} + 88.0f;
    x = x > -87.0f ? x : Float{} - 87.0f;
    const Float shifted = x * 1.44269504f + 0x1.8p23f, k = shifted - 0x1.8p23f;
    const Float r = (x - k * 6.93359375e-1f) + k * 2.12194440e-4f;
    Float sum = Float{} + 1.9841270e-4f;
    sum = sum * r + 1.3888889e-3f;
    sum = sum * r + 8.3333333e-3f;
    sum = sum * r + 4.1666667e-2f;
    sum = sum * r + 1.6666667e-1f;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return sum * (Float)(((Ints)shifted << 23) + (127 << 23));
}

inline Float erfcx_of(Float x) {
    static constexpr float c = 2.5f;
    static constexpr float a[] = {1.26483818f,     -0.122356801f,   -0.0990242417f,   0.157630994f,
                                  -0.102970538f,   0.0327520526f,   0.00094675963f,   -0.00435049234f,
                                  0.000463337521f, 0.000575734629f, -6.39178661e-05f, -6.19075308e-05f};
    const Float above = x + c, slope = 2.0f * x + 1.0f, both = 1.0f / (above * slope);
    const Float t = (x - c) * (slope * both), t2 = t * t;
    Float even = Float{} + a[10], odd = Float{} + a[11];
#pragma GCC unroll 5
    for (int k = 8; k >= 0; k -= 2) {
        even = even * t2 + a[k];
        odd = odd * t2 + a[k + 1];
    }
    return (even + odd * t) * (above * both);
}

// ½ erfcx(|x|/√2): Φ(−|x|) over e^{−x²/2}.
inline Float half_erfcx(Float x) { return 0.5f * erfcx_of(modulus(x) * 0.707106781f); }
inline Double half_erfcx(Double x) { return 0.5 * erfcx_of(modulus(x) * 0.70710678118654752440); }

inline Double ndtr_of(Double x) {
    const Double tail = half_erfcx(x) * exp_of(-0.5 * x * x);
    return x < 0.0 ? tail : 1.0 - tail;
}

inline Double log_ndtr_of(Double x) {
    const Double part = half_erfcx(x), square = 0.5 * x * x;
    return log_of(x < 0.0 ? part : 1.0 - part * exp_of(-square)) - (x < 0.0 ? square : all(0.0));
}

template <Double (*function)(Double)>
void map_array(Index n, const double* x, double* y) {
    for (Index i = 0; i < n; i += Lanes<double>::count) store(y + i, function(load(x + i)));
}

constexpr FunctionKernels function_kernels() {
    return {map_array<exp_of>, map_array<log_of>, map_array<erfcx_of>, map_array<ndtr_of>, map_array<log_ndtr_of>};
}
