// Largest modulus and sum of squares on one thread. Included inside a set's own namespace, after skinny.inc.hpp.
//
// Entries of 32 and 16 bits are compared as floats and squared as doubles, whose sums lose nothing: no square of theirs
// overflows or vanishes.
//
// cost  for a vector of floats one comparison and two multiply-adds.

template <class V>
inline V modulus(V x) {
    return x < 0 ? -x : x;
}
template <class V>
inline V larger(V size, V most) {
    return size > most ? size : most;  // most where size is NaN
}

inline Double squares_of(Double x, Double sum) { return sum + x * x; }
inline Double squares_of(Float x, Double sum) {
    const Widened wide = widened(x);
    return sum + wide.low * wide.low + wide.high * wide.high;
}

template <class T, class S>
Magnitude magnitude_as(Index n, const S* x) {
    using Vector = typename Lanes<T>::Vector;
    constexpr int L = Lanes<T>::count;
    constexpr int V = 4;
    Vector most[V] = {};
    Double sums[V] = {};
    const auto add = [&](const S* at, int v) __attribute__((always_inline)) {
        const Vector a = Read<T>::from(at);
        most[v] = larger(modulus(a), most[v]);
        sums[v] = squares_of(a, sums[v]);
    };
    Index j = 0;
    for (; j + V * L <= n; j += V * L)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) add(x + j + v * L, v);
    for (; j < n; j += L) {
        S rest[L] = {};
        for (Index e = 0; e < L && j + e < n; ++e) rest[e] = x[j + e];
        add(rest, 0);
    }
    Magnitude out{0.0, 0.0};
    for (int v = 0; v < V; ++v) {
        for (int lane = 0; lane < L; ++lane) out.largest = larger(static_cast<double>(most[v][lane]), out.largest);
        for (int lane = 0; lane < Lanes<double>::count; ++lane) out.squares += sums[v][lane];
    }
    return out;
}

inline Magnitude magnitude(Scalar stored, Index n, const void* x) {
    switch (stored) {
        case Scalar::f64:
            return magnitude_as<double>(n, static_cast<const double*>(x));
        case Scalar::f16:
            return magnitude_as<float>(n, static_cast<const F16*>(x));
        case Scalar::bf16:
            return magnitude_as<float>(n, static_cast<const BF16*>(x));
        case Scalar::f32:
            break;
    }
    return magnitude_as<float>(n, static_cast<const float*>(x));
}

constexpr MagnitudeKernels magnitude_kernels() { return {magnitude}; }
